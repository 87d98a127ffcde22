"""Tasks whose data are texts."""
