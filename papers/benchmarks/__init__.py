"""The programs that write the papers' files of benchmarks/results, and the page of their tables."""
