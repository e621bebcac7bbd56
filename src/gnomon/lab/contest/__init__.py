"""Searches against trainings: what a contest declares, how its arms run, what its page shows."""
