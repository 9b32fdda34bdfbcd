"""Intervals by the bootstrap: how far a figure may be from that of all rows like those at hand."""

import numpy as np

FEW_GROUPS = 5
"""With fewer groups draws say nothing of the spread, and an interval is all there can be."""

Value = dict[str, float]
"""``value``, ``low`` and ``high``, the ends of a 95 % interval."""


def mean_interval(values: np.ndarray, groups: np.ndarray, resamples: int = 1000, least: float = 0.0) -> Value:
    """Mean of the values of rows ``(n,)`` in [``least``, 1] with its 95 % interval: ``value``, ``low``, ``high``.

    Where all but a few groups have one difference, draws hold no more kinds of groups than were seen: each end is then
    at least as far away as that of `unseen`.
    """
    _, group = np.unique(groups, return_inverse=True)
    drawn, sums, rows = draw_groups(group.max() + 1, resamples), np.bincount(group, values), np.bincount(group)
    figure = with_interval(values.mean(), (drawn @ sums) / (drawn @ rows), len(rows), least)
    _, alike = np.unique((sums / rows).round(9), return_counts=True)
    if least < 0 and len(rows) - alike.max() < FEW_GROUPS:
        low, high = unseen(figure["value"], len(rows), least)
        figure |= {"low": min(figure["low"], low), "high": max(figure["high"], high)}
    return figure


def with_interval(value: float, draws: np.ndarray, groups: int, least: float = 0.0) -> Value:
    """A value and the middle 95 % of what draws gave, moved so that their mean is the value.

    Of rows drawn with replacement some stand twice and some classes are missing, which makes rankings better than they
    are: without the move a value could lie outside of its own interval (Efron & Tibshirani 1993, section 10.3).

    Draws of groups that are all alike (all right, all wrong, none with a difference) are all alike too, which does not
    make the next group so: the ends are then those of `unseen`. Where groups are too few to draw from and not all at
    ``least`` or at 1, or no draw is defined, the interval reaches from ``least`` to 1.

    Args:
        draws: ``(resamples,)``, NaN where a draw does not define the value.
        groups: how many groups there are to draw from.
        least: the lowest value there can be: 0, or -1 for a difference.
    """
    defined = draws[~np.isnan(draws)]
    alike, extreme = len(defined) > 0 and np.ptp(defined) < 1e-9, min(value - least, 1 - value) < 1e-9
    if alike and (extreme or groups >= FEW_GROUPS):
        low, high = unseen(value, groups, least)
    elif groups < FEW_GROUPS or not len(defined):
        low, high = least, 1.0
    else:
        ends = np.quantile(defined, [0.025, 0.975]) - (defined.mean() - value)
        low, high = ends.clip(least, 1).tolist()
    return {"value": float(value), "low": low, "high": high}


def unseen(value: float, groups: int, least: float) -> tuple[float, float]:
    """Ends of the interval of a mean when groups are all alike, each of 97.5 % confidence.

    Groups of another kind, of which none was seen, are at most 1 - 0.025 ^ (1 / groups) of all (Clopper & Pearson
    1934); at worst they have ``least``, or 1.
    """
    share = 1 - 0.025 ** (1 / groups)
    return float(value - share * (value - least)), float(value + share * (1 - value))


def draw_groups(number: int, resamples: int) -> np.ndarray:
    """How often each group is in each draw with replacement ``(resamples, number)``; the same in every call."""
    rng, shares = np.random.default_rng(0), np.full(number, 1 / number)
    return np.stack([rng.multinomial(number, shares).astype(np.int16) for _ in range(resamples)])
