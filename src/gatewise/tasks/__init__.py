"""Tasks: data in, predictions out."""
