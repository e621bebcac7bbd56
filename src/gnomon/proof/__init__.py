"""What a growth must show: the equation on stored tensors, and the outputs."""
