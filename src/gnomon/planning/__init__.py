"""From what is asked to edits: what a plan is, and how the tensors of groups grow."""
