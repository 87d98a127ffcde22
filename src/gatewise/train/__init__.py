"""The training loop's glue to Lightning."""
