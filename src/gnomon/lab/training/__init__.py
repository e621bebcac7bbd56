"""How a network is trained: its start, its recipe, the loop, and what it costs."""
