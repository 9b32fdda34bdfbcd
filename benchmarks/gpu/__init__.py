"""Every table that the documentation leaves open for want of a GPU: ``python -m benchmarks.gpu``."""
