"""A value with its confidence interval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % confidence interval.

    Attributes:
        value: the figure on the rows at hand.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float


Scores = dict[str, Interval]
"""Metric → value with interval. Metrics that the rows do not define are absent."""
