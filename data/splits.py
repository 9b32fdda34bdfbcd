"""Cut validation rows from training rows: stratified by label, and never through a group."""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from data.errors import UserError
from data.messages import quote

MOST = 2.5
"""How many times the wished share of validation rows may be, where rows are too few to cut it exactly."""
FOLDS = 50
"""Folds that rows are dealt into at most."""


def connect_groups(*keys: Sequence[str | None]) -> np.ndarray:
    """Group number of each row when rows that share any key belong together.

    Two patients who share one image, say, become one group. A key of ``None`` connects a row to nothing.
    """
    num_rows = len(keys[0])
    rows, nodes = [], []
    node_of: dict[tuple[int, str], int] = {}
    for kind, column in enumerate(keys):
        for row, key in enumerate(column):
            if key is not None:
                rows.append(row)
                nodes.append(num_rows + node_of.setdefault((kind, key), len(node_of)))
    size = num_rows + len(node_of)
    graph = coo_matrix((np.ones(len(rows)), (rows, nodes)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:num_rows]


def cut_validation(
    labels: Sequence[str], groups: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of train and validation, about ``fraction`` of the rows in the second.

    The rows are dealt into folds, as many as the fraction and the rarity of groups and labels allow, and whole folds
    are taken.

    Raises:
        UserError: too few groups or rows of a label to cut, or too small a share.
    """
    if MOST * fraction < 1 / FOLDS:
        raise UserError(f"data.validation_fraction must be at least {1 / FOLDS / MOST:g}, got {fraction:g}.")
    needed = max(2, math.ceil(1 / (MOST * fraction)))
    most, obstacles = most_folds(labels, groups, needed)
    if most < needed:
        raise UserError(
            f"Cannot cut {fraction:.0%} of the rows for validation: {obstacles}; {needed} are needed. Give "
            f"data.validation, or {'a larger data.validation_fraction or ' if needed > 2 else ''}more rows."
        )
    share = Fraction(min(max(fraction, 1 / FOLDS), 1 - 1 / FOLDS)).limit_denominator(FOLDS)
    num_folds = min(share.denominator, most)
    wanted = min(max(1, round(fraction * num_folds)), num_folds - 1)
    validation = np.sort(np.concatenate(deal(labels, groups, num_folds, seed)[:wanted]))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def cut_fold(
    labels: Sequence[str], groups: np.ndarray, num_folds: int, fold: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of all folds but one, and of that one.

    Raises:
        UserError: fewer groups or rows of the most frequent label than folds, fewer than two folds, or no such fold.
    """
    most, obstacles = most_folds(labels, groups, max(2, num_folds))
    if most < 2:
        raise UserError(f"The rows cannot be dealt into folds: {obstacles}; 2 are needed.")
    if not 2 <= num_folds <= most:
        because = f": {obstacles}" if obstacles else ""
        raise UserError(f"data.folds must be 2 to {most}, got {num_folds}{because}.")
    if fold >= num_folds:
        raise UserError(f"data.fold must be below data.folds, {num_folds}, got {fold}.")
    held_out = deal(labels, groups, num_folds, seed)[fold]
    return np.setdiff1d(np.arange(len(labels)), held_out), np.sort(held_out)


def most_folds(labels: Sequence[str], groups: np.ndarray, wanted: int) -> tuple[int, str]:
    """Into how many folds rows can be dealt, and in words all that does not allow ``wanted``, the tightest first."""
    counts, num_groups = Counter(labels), len(np.unique(groups))
    common, rows = max(counts.items(), key=lambda item: item[1])
    limits = [
        (rows, f"the most frequent of the {len(counts)} labels, {quote(common)}, has only {rows} rows"),
        (num_groups, f"the {len(labels)} rows form only {num_groups} groups (images, or values of data.group)"),
    ]
    limits.sort(key=lambda limit: limit[0])
    return limits[0][0], " and ".join(told for most, told in limits if most < wanted)


def deal(labels: Sequence[str], groups: np.ndarray, num_folds: int, seed: int) -> list[np.ndarray]:
    """Row numbers of each fold; groups stay whole, labels are spread evenly."""
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # classes rarer than the folds are expected: they stay whole on one side
        warnings.simplefilter("ignore", UserWarning)
        return [held_out for _, held_out in splitter.split(np.zeros(len(labels)), labels, groups)]
