"""From a tape to groups of channels: which dimensions must grow together, and what passes."""
