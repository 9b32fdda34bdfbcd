"""Cut validation rows from training rows: stratified by label, and never through a group."""

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold


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

    Raises:
        ValueError: too few groups to cut.
    """
    num_folds = max(2, round(1 / fraction))
    num_groups = len(np.unique(groups))
    if num_groups < num_folds:
        raise ValueError(
            f"Cannot cut {fraction:.0%} of the rows for validation: they form only {num_groups} groups (images, or "
            "values of data.group). Give data.validation, a larger data.validation_fraction, or more rows."
        )
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():  # classes rarer than the folds are expected: they stay whole on one side
            warnings.simplefilter("ignore", UserWarning)
            return next(splitter.split(np.zeros(len(labels)), labels, groups))
    except ValueError as error:
        raise ValueError(f"Cannot cut validation rows by label: {error}") from error
