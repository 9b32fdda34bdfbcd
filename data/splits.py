"""Split training rows: stratified by label, with groups kept together."""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from data.errors import UserError
from data.messages import quote

MAX_EXCESS = 2.5
"""If there are few rows, the validation share may be this many times the requested one."""
MAX_FOLDS = 50


def connect_groups(*keys: Sequence[str | None]) -> np.ndarray:
    """Group number of each row; rows that share any key, directly or through other rows, are in one group.

    For example, two patients who share an image form one group. A key of ``None`` does not connect rows.

    Args:
        keys: sequences of one key for each row, such as image keys and patients.
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


def split_validation(
    labels: Sequence[str], groups: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of train and validation rows, with about ``fraction`` of the rows in validation.

    Divides the rows into folds and takes whole folds. The number of folds depends on the fraction, and on the number of
    groups and of rows of the most frequent label.

    Raises:
        UserError: too few groups or labels, or too small a fraction.
    """
    if MAX_EXCESS * fraction < 1 / MAX_FOLDS:
        raise UserError(f"data.validation_fraction must be at least {1 / MAX_FOLDS / MAX_EXCESS:g}, got {fraction:g}.")
    needed = max(2, math.ceil(1 / (MAX_EXCESS * fraction)))
    most, obstacles = most_folds(labels, groups, needed)
    if most < needed:
        raise UserError(
            f"Cannot split off {fraction:.0%} of the rows for validation: {obstacles}; {needed} are needed. Give "
            f"data.validation, or {'a larger data.validation_fraction or ' if needed > 2 else ''}more rows."
        )
    share = Fraction(min(max(fraction, 1 / MAX_FOLDS), 1 - 1 / MAX_FOLDS)).limit_denominator(MAX_FOLDS)
    num_folds = min(share.denominator, most)
    wanted = min(max(1, round(fraction * num_folds)), num_folds - 1)
    validation = np.sort(np.concatenate(make_folds(labels, groups, num_folds, seed)[:wanted]))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def split_fold(
    labels: Sequence[str], groups: np.ndarray, num_folds: int, fold: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rows outside and inside one fold.

    Raises:
        UserError: fewer than two folds, more folds than groups or than rows of the most frequent label, or no such
            fold.
    """
    most, obstacles = most_folds(labels, groups, max(2, num_folds))
    if most < 2:
        raise UserError(f"Cannot split the rows into folds: {obstacles}; 2 are needed.")
    if not 2 <= num_folds <= most:
        because = f": {obstacles}" if obstacles else ""
        raise UserError(f"data.folds must be 2 to {most}, got {num_folds}{because}.")
    if fold >= num_folds:
        raise UserError(f"data.fold must be below data.folds, {num_folds}, got {fold}.")
    held_out = make_folds(labels, groups, num_folds, seed)[fold]
    return np.setdiff1d(np.arange(len(labels)), held_out), np.sort(held_out)


def most_folds(labels: Sequence[str], groups: np.ndarray, wanted: int) -> tuple[int, str]:
    """The largest possible number of folds, and in words what limits it below ``wanted``, strictest limit first."""
    counts, num_groups = Counter(labels), len(np.unique(groups))
    common, rows = max(counts.items(), key=lambda item: item[1])
    limits = [
        (rows, f"the most frequent of the {len(counts)} labels, {quote(common)}, has only {rows} rows"),
        (num_groups, f"the {len(labels)} rows form only {num_groups} groups (images, or values of data.group)"),
    ]
    limits.sort(key=lambda item: item[0])
    return limits[0][0], " and ".join(reason for limit, reason in limits if limit < wanted)


def make_folds(labels: Sequence[str], groups: np.ndarray, num_folds: int, seed: int) -> list[np.ndarray]:
    """Row indices of each fold, by stratified group k-fold."""
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import, and not all rows are split

    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # labels with fewer rows than folds are expected
        warnings.simplefilter("ignore", UserWarning)
        return [held_out for _, held_out in splitter.split(np.zeros(len(labels)), labels, groups)]
