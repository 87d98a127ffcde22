"""The music model: its training, its samples, and its baselines."""
