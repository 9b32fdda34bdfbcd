"""A clock that waits for the device, and the median of measurements with their quartiles."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def clock() -> float:
    """Time in seconds, after all work of the device is done."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(work: Callable[[], object]) -> float:
    """Seconds that a function takes."""
    started = clock()
    work()
    return clock() - started


def with_quartiles(values: Sequence[float], form: str = ".3g") -> str:
    """Median and quartiles as text: ``1.02 (1.01 – 1.05)``."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:{form}} ({low:{form}} – {high:{form}})"
