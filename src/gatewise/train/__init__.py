"""Training with Lightning: the loop, checkpoints and resuming."""
