"""Populations that search side by side, and now and then exchange their best."""
