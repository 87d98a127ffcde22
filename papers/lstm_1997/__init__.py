"""The experiments of Hochreiter & Schmidhuber 1997, "Long Short-Term Memory", Neural Computation 9(8),
section 5: tasks, networks, criteria of success and the paper's own figures."""
