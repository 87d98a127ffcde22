"""Tasks: data in, predictions out. The registry lists them; the base has what they share."""
