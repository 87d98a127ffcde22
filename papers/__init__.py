"""Published experiments, run on the project's own cells and kernels."""
