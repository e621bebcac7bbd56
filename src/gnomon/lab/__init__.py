"""What an experiment needs: data, training, records and pictures (the `lab` extra)."""
