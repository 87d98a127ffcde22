"""What the tasks on whole sequences share: one output for each sequence, a class or numbers."""
