"""Measurements behind the choices; each prints ratios taken in one run."""
