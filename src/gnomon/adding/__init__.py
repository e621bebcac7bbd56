"""Modules that are put in, split, copied or folded, and what they start from."""
