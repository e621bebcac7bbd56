"""The members of a search: what they share, whom they grew from, how children are made."""
