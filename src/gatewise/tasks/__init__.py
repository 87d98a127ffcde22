"""Tasks: data in, predictions out. ``registry`` lists them, and ``base`` has their common base class."""
