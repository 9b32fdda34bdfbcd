"""Confidence intervals by the bootstrap over groups of rows."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from app.evaluation.interval import Interval

MIN_GROUPS = 5
"""With fewer groups the draws do not estimate the spread, and the interval is the whole range."""


class Resampler:
    """Bootstrap draws of whole groups of rows (cluster bootstrap), shared by all figures of the same rows.

    Rows of one group, for example about one image, are not independent; they are drawn together.

    Args:
        groups: group of each row ``(n,)``.
        resamples: number of draws.

    Attributes:
        group: number of each row's group ``(n,)``, from 0 to G - 1.
    """

    def __init__(self, groups: np.ndarray, resamples: int = 1000):
        self.group = np.unique(groups, return_inverse=True)[1]
        self.resamples = resamples

    @cached_property
    def num_groups(self) -> int:
        return int(self.group.max()) + 1

    @cached_property
    def draws(self) -> np.ndarray:
        """How often each group is in each draw with replacement ``(resamples, G)``; the same for equal G."""
        rng, shares = np.random.default_rng(0), np.full(self.num_groups, 1 / self.num_groups)
        return rng.multinomial(self.num_groups, shares, size=self.resamples).astype(np.int16)

    def select(self, rows: np.ndarray) -> Resampler:
        """Draws of the groups of some rows, given by number or as a mask."""
        return Resampler(self.group[rows], self.resamples)


def mean_interval(
    values: np.ndarray, resampler: Resampler, least: float = 0.0, weights: np.ndarray | None = None
) -> Interval:
    """Weighted mean of the values of rows ``(n,)`` in [``least``, 1] with its 95 % interval.

    If all but a few groups have the same value, the draws contain no more kinds of groups than the rows do. For
    differences and for weighted rows each end is then at least as far away as that of `unseen_ends`. The interval of a
    difference contains 0 if fewer than `MIN_GROUPS` groups have one, see `difference_interval`.

    Args:
        weights: weight of each row ``(n,)``, above 0; ``None`` for equal weights.
    """
    if weights is not None and np.ptp(weights) == 0:
        weights = None
    group, draws = resampler.group, resampler.draws
    sizes, group_weights = np.bincount(group), np.bincount(group, weights)
    sums = np.bincount(group, values if weights is None else weights * values)
    number = float(effective_groups(group_weights, sizes))
    drawn = (draws @ sums) / (draws @ group_weights)
    figure = bootstrap_interval(float(np.average(values, weights=weights)), drawn, number, least)
    _, kind = np.unique((sums / group_weights).round(9), return_inverse=True)
    row_weights = group_weights / sizes
    different = (row_weights.sum() - np.bincount(kind, row_weights).max()) / row_weights.max()
    if (least < 0 or weights is not None) and different < MIN_GROUPS:
        figure = with_unseen_ends(figure, number, least)
    differ = row_weights[sums != 0].sum() / row_weights.max()
    return with_zero(figure) if least < 0 and differ < MIN_GROUPS else figure


def difference_interval(value: float, draws: np.ndarray, groups: float, different: float) -> Interval:
    """A difference of two systems on the same rows, in [-1, 1], with its 95 % interval.

    Fewer than `MIN_GROUPS` groups that differ do not show which system is better: all four signs are equal one time in
    eight. Each end is then at least as far away as that of `unseen_ends`, and the interval contains 0.

    Args:
        draws, groups: as of `bootstrap_interval`.
        different: effective number of groups that the two systems do not answer alike.
    """
    figure = bootstrap_interval(value, draws, groups, least=-1)
    if different < MIN_GROUPS:
        figure = with_zero(with_unseen_ends(figure, groups, -1))
    return figure


def bootstrap_interval(value: float, draws: np.ndarray, groups: float, least: float = 0.0) -> Interval:
    """A value with the middle 95 % of the draws, shifted so that their mean is the value.

    The shift corrects the bias of the bootstrap (Efron & Tibshirani 1993, section 10.3): a draw contains some rows
    twice and lacks some classes, which makes rankings look better than they are. It carries no end of a
    difference across 0.

    If all groups are alike (all correct, all wrong, no difference), so are all draws; the ends are then those of
    `unseen_ends`. If there are fewer than `MIN_GROUPS` groups that are not all at an extreme, or no draw defines the
    value, the interval reaches from ``least`` to 1.

    Args:
        draws: the value in each draw ``(resamples,)``, NaN where a draw does not define it.
        groups: effective number of groups.
        least: the lowest possible value: 0, or -1 for a difference.
    """
    defined = draws[~np.isnan(draws)]
    alike, extreme = len(defined) > 0 and np.ptp(defined) < 1e-9, min(value - least, 1 - value) < 1e-9
    if alike and (extreme or groups >= MIN_GROUPS):
        low, high = unseen_ends(value, groups, least)
    elif groups < MIN_GROUPS or not len(defined):
        low, high = least, 1.0
    else:
        drawn = np.quantile(defined, [0.025, 0.975])
        low, high = (drawn - (defined.mean() - value)).clip(least, 1).tolist()
        if least < 0:
            low, high = min(low, 0.0) if drawn[0] <= 0 else low, max(high, 0.0) if drawn[1] >= 0 else high
    return Interval(float(value), low, high)


def unseen_ends(value: float, groups: float, least: float) -> tuple[float, float]:
    """Ends of the interval of a mean if all groups are alike.

    Groups of another kind are at most a share 1 - 0.025 ^ (1 / groups) of all groups if none was seen (Clopper &
    Pearson 1934, 97.5 % confidence for each end). At worst their value is ``least`` or 1.
    """
    share = 1 - 0.025 ** (1 / groups)
    return float(value - share * (value - least)), float(value + share * (1 - value))


def with_unseen_ends(figure: Interval, groups: float, least: float) -> Interval:
    """An interval whose ends are at least as far away as those of `unseen_ends`."""
    low, high = unseen_ends(figure.value, groups, least)
    return Interval(figure.value, min(figure.low, low), max(figure.high, high))


def with_zero(figure: Interval) -> Interval:
    """An interval that contains 0."""
    return Interval(figure.value, min(figure.low, 0.0), max(figure.high, 0.0))


def effective_groups(weights: np.ndarray | csr_matrix, sizes: np.ndarray | csr_matrix) -> np.ndarray:
    """Effective number of groups under row weights (Kish 1965, section 11.7).

    Weights that only offset the sizes of the groups do not lower it.

    Args:
        weights, sizes: sum of the weights and number of the rows of each group, ``(G,)`` or sparse ``(G, C)``. Groups
            without rows are not counted.

    Returns:
        a number, or ``(C,)``.
    """
    ratio = np.minimum(1, effective_size(weights) / np.maximum(effective_size(sizes), 1e-300))
    return np.round(column_sums(sizes > 0) * ratio, 6)


def effective_size(values: np.ndarray | csr_matrix) -> np.ndarray:
    """Kish's effective sample size: the square of the sum over the sum of the squares."""
    squares = values.multiply(values) if isinstance(values, csr_matrix) else values**2
    return column_sums(values) ** 2 / np.maximum(column_sums(squares), 1e-300)


def column_sums(values: np.ndarray | csr_matrix) -> np.ndarray:
    return np.asarray(values.sum(axis=0)).squeeze()
