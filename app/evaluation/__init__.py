"""Figures on held-out rows: predictions, metrics with intervals, calibration, comparison of models."""
