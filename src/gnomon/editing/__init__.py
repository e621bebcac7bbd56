"""Edits are made on a model and its optimizers, and can be undone."""
