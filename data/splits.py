"""Cut validation rows from training rows: stratified by label, and never through a group."""

import warnings
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

MOST = 2.5
"""How many times the wished share of validation rows may be, where rows are too few to cut it exactly."""


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
        ValueError: too few groups or rows of a label to cut.
    """
    num_groups, most_common = len(np.unique(groups)), max(Counter(labels).values())
    num_folds = min(Fraction(fraction).limit_denominator(50).denominator, num_groups, most_common)
    if num_folds < 2 or 1 / num_folds > MOST * fraction:
        raise ValueError(
            f"Cannot cut {fraction:.0%} of the rows for validation: they form only {num_groups} groups (images, or "
            f"values of data.group), and the most frequent label has {most_common} rows. Give data.validation, a "
            "larger data.validation_fraction, or more rows."
        )
    wanted = min(max(1, round(fraction * num_folds)), num_folds - 1)
    validation = np.sort(np.concatenate(deal(labels, groups, num_folds, seed)[:wanted]))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def cut_fold(
    labels: Sequence[str], groups: np.ndarray, num_folds: int, fold: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of all folds but one, and of that one.

    Raises:
        ValueError: fewer groups or rows of the most frequent label than folds, fewer than two folds, or no such fold.
    """
    most = min(len(np.unique(groups)), max(Counter(labels).values()))
    if not 2 <= num_folds <= most:
        raise ValueError(
            f"data.folds must be 2 to {most} (the groups of rows, or the rows of the most frequent label), got "
            f"{num_folds}."
        )
    if fold >= num_folds:
        raise ValueError(f"data.fold must be below data.folds, {num_folds}, got {fold}.")
    held_out = deal(labels, groups, num_folds, seed)[fold]
    return np.setdiff1d(np.arange(len(labels)), held_out), np.sort(held_out)


def deal(labels: Sequence[str], groups: np.ndarray, num_folds: int, seed: int) -> list[np.ndarray]:
    """Row numbers of each fold; groups stay whole, labels are spread evenly."""
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # classes rarer than the folds are expected: they stay whole on one side
        warnings.simplefilter("ignore", UserWarning)
        return [held_out for _, held_out in splitter.split(np.zeros(len(labels)), labels, groups)]
