"""Algorithm 4: the members of a population are trained together, one of them at each step."""
