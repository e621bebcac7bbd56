"""Runs in folders: what was ordered, checked, begun, recorded and gone on with."""
