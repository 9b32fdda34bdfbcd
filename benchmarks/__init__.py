"""Measurements behind design decisions. Compared variants are measured in turn, in one run."""
