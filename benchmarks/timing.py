"""A clock that waits for the device, and repeated measurements."""

import statistics
import time
from collections.abc import Callable, Iterator

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


def several(
    work: Callable[[], object], until: float, shortest: float = 0.02, least: int = 3, most: int = 30
) -> list[float]:
    """Seconds of a call of a function, measured several times after two calls that warm up.

    A measurement repeats short calls, so that the device is not waited for after each of them.

    Args:
        until: time (`time.time`) after which no measurement begins, once there are enough.
        shortest: seconds that a measurement takes at least, with up to 100 calls.
        least, most: number of measurements.
    """
    work()
    number = min(100, max(1, round(shortest / timed(work))))

    def calls() -> None:
        for _ in range(number):
            work()

    found: list[float] = []
    while len(found) < least or (len(found) < most and time.time() < until):
        found.append(timed(calls) / number)
    return found


def paired(rounds: int, first: Callable[[], float], second: Callable[[], float]) -> list[tuple[float, float]]:
    """Measure both in turn. The first pair warms up and is left out."""
    return [(first(), second()) for _ in range(rounds + 1)][1:]


def medians(pairs: list[tuple[float, float]]) -> Iterator[float]:
    """The median of the first measurements, and that of the second."""
    return (statistics.median(column) for column in zip(*pairs, strict=True))
