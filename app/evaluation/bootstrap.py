"""Intervals by the bootstrap: how far a figure may be from that of all rows like those at hand."""

import numpy as np
from scipy.sparse import csr_matrix

FEW_GROUPS = 5
"""With fewer groups draws say nothing of the spread, and an interval is all there can be."""

Value = dict[str, float]
"""``value``, ``low`` and ``high``, the ends of a 95 % interval."""


def mean_interval(
    values: np.ndarray,
    groups: np.ndarray,
    resamples: int = 1000,
    least: float = 0.0,
    weights: np.ndarray | None = None,
) -> Value:
    """Mean of the values of rows ``(n,)`` in [``least``, 1] with its 95 % interval: ``value``, ``low``, ``high``.

    Rows count what they weigh ``(n,)``, above 0, where ``weights`` are given.

    Where all but a few groups have one difference, or one value and rows weigh, draws hold no more kinds of groups than
    were seen: each end is then at least as far away as that of `unseen`. Groups that weigh little count as fewer.
    """
    if weights is not None and np.ptp(weights) == 0:
        weights = None
    _, group = np.unique(groups, return_inverse=True)
    sizes, weighed = np.bincount(group), np.bincount(group, weights)
    sums = np.bincount(group, values if weights is None else weights * values)
    drawn = draw_groups(len(sizes), resamples)
    number = float(count_of(weighed, sizes))
    figure = with_interval(np.average(values, weights=weights), (drawn @ sums) / (drawn @ weighed), number, least)
    _, kind = np.unique((sums / weighed).round(9), return_inverse=True)
    heavy = weighed / sizes
    different = (heavy.sum() - np.bincount(kind, heavy).max()) / heavy.max()
    if (least < 0 or weights is not None) and different < FEW_GROUPS:
        low, high = unseen(figure["value"], number, least)
        figure |= {"low": min(figure["low"], low), "high": max(figure["high"], high)}
    return figure


def with_interval(value: float, draws: np.ndarray, groups: float, least: float = 0.0) -> Value:
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


def unseen(value: float, groups: float, least: float) -> tuple[float, float]:
    """Ends of the interval of a mean when groups are all alike, each of 97.5 % confidence.

    Groups of another kind, of which none was seen, are at most 1 - 0.025 ^ (1 / groups) of all (Clopper & Pearson
    1934); at worst they have ``least``, or 1.
    """
    share = 1 - 0.025 ** (1 / groups)
    return float(value - share * (value - least)), float(value + share * (1 - value))


def count_of(weighed: np.ndarray | csr_matrix, sizes: np.ndarray | csr_matrix) -> np.ndarray:
    """As how many groups these count where rows weigh differently: fewer (Kish 1965, section 11.7), but not for what
    evens out unequal numbers of rows.

    Args:
        weighed, sizes: what the rows of each group weigh, and how many they are, ``(groups,)`` or sparse
            ``(groups, C)``; groups of no rows do not count.

    Returns:
        a number, or ``(C,)``.
    """
    return np.round(total(sizes > 0) * np.minimum(1, evenness(weighed) / np.maximum(evenness(sizes), 1e-300)), 6)


def evenness(values: np.ndarray | csr_matrix) -> np.ndarray:
    """How many equal values there would be of the same sum and sum of squares."""
    squares = values.multiply(values) if isinstance(values, csr_matrix) else values**2
    return total(values) ** 2 / np.maximum(total(squares), 1e-300)


def total(values: np.ndarray | csr_matrix) -> np.ndarray:
    return np.asarray(values.sum(axis=0)).squeeze()


def draw_groups(number: int, resamples: int) -> np.ndarray:
    """How often each group is in each draw with replacement ``(resamples, number)``; the same in every call."""
    rng, shares = np.random.default_rng(0), np.full(number, 1 / number)
    return np.stack([rng.multinomial(number, shares).astype(np.int16) for _ in range(resamples)])
