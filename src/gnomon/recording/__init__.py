"""What a model does, as a tape of operations; the model is left as it was."""
