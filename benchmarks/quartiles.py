"""The median of measurements with their quartiles, as text."""

from collections.abc import Sequence

import numpy as np


def with_quartiles(values: Sequence[float], form: str = ".3g") -> str:
    """Median and quartiles as text: ``1.02 (1.01 – 1.05)``."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:{form}} ({low:{form}} – {high:{form}})"
