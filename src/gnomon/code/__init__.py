"""What a model's own code ties to widths: predicted, repaired, or refused."""
