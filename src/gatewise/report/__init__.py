"""Report pages: one self-contained file, and the parts that tasks share."""
