"""Intervals by the bootstrap: how far a figure may be from that of all rows like those at hand."""

import numpy as np
from scipy.stats import beta

FEW_GROUPS = 5
"""With fewer groups draws say nothing of the spread, and an interval is all there can be."""

Value = dict[str, float]
"""``value``, ``low`` and ``high``, the ends of a 95 % interval."""


def mean_interval(values: np.ndarray, groups: np.ndarray, resamples: int = 1000, least: float = 0.0) -> Value:
    """Mean of the values of rows ``(n,)`` in [``least``, 1] with its 95 % interval: ``value``, ``low``, ``high``."""
    _, group = np.unique(groups, return_inverse=True)
    drawn = draw_groups(group.max() + 1, resamples)
    draws = (drawn @ np.bincount(group, values)) / (drawn @ np.bincount(group))
    return with_interval(values.mean(), draws, drawn.shape[1], least)


def with_interval(value: float, draws: np.ndarray, groups: int, least: float = 0.0) -> Value:
    """A value and the middle 95 % of what draws gave, moved so that their mean is the value.

    Of rows drawn with replacement some stand twice and some classes are missing, which makes rankings better than they
    are: without the move a value could lie outside of its own interval (Efron & Tibshirani 1993, section 10.3).

    Draws of rows that are all right, or all wrong, are all alike, which does not make the next row so: the other end is
    then that of Clopper & Pearson (1934) for as many groups of one kind. Where groups are too few to draw from, or no
    draw is defined, the interval reaches from ``least`` to 1.

    Args:
        draws: ``(resamples,)``, NaN where a draw does not define the value.
        groups: how many groups there are to draw from.
        least: the lowest value there can be: 0, or -1 for a difference.
    """
    defined = draws[~np.isnan(draws)]
    if len(defined) and least == 0 and min(value, 1 - value) < 1e-9 and np.allclose(defined, value):
        end = float(beta.ppf(0.025, groups, 1))
        low, high = (end, 1.0) if value > 0.5 else (0.0, 1 - end)
    elif groups < FEW_GROUPS or not len(defined):
        low, high = least, 1.0
    else:
        ends = np.quantile(defined, [0.025, 0.975]) - (defined.mean() - value)
        low, high = ends.clip(least, 1).tolist()
    return {"value": float(value), "low": low, "high": high}


def draw_groups(number: int, resamples: int) -> np.ndarray:
    """How often each group is in each draw with replacement ``(resamples, number)``; the same in every call."""
    rng, shares = np.random.default_rng(0), np.full(number, 1 / number)
    return np.stack([rng.multinomial(number, shares).astype(np.int16) for _ in range(resamples)])
