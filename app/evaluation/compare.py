"""Comparison of two models: their difference in accuracy on the same rows, with an interval and a test."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy.stats import permutation_test

from app.evaluation.bootstrap import Resampler, mean_interval
from app.evaluation.interval import Interval
from data import Rows
from data.errors import UserError
from data.splits import connect_groups

CONTENT = ["image_key", "text", "label"]
"""Columns of predictions.parquet with the content of a row; images by the hash of their bytes."""
IDENTITY = [*CONTENT, "weight"]
"""Columns that must be equal in two evaluations. The number of a row may differ."""
LABEL_TYPE = "label_type"
"""Attribute of a table of predictions, see `data.LabelFormat`; earlier versions did not write it."""
CORRECT = "correct"
"""Column of predictions.parquet with how correct the answer is, in [0, 1]."""


def correct_column(system: str) -> str:
    """The column with how correct another system is: the model with one input, or a linear classifier."""
    return f"{CORRECT} ({system})"


def other_systems(table: pd.DataFrame) -> list[str]:
    """The systems other than the model that a table of predictions has."""
    start, end = correct_column("|").split("|")
    return [name.removeprefix(start).removesuffix(end) for name in table.columns if name.startswith(start)]


@dataclass
class Comparison:
    """Difference of two evaluations, the second minus the first.

    Attributes:
        accuracy: of the first and the second.
        groups: number of groups of rows that are not independent.
        p: two-sided p-value of a difference of zero.
        better_first, better_second: number of rows that the first, or the second, answers better.
        label_type: see `data.LabelFormat`; for ``multi`` the accuracy is that of whole sets.
    """

    rows: int
    images: int
    accuracy: list[float]
    groups: int
    difference: Interval
    p: float
    better_first: int
    better_second: int
    label_type: str = "single"


def load_predictions(path: Path, rows: str) -> pd.DataFrame:
    """Predictions that eval.py wrote, sorted by row.

    Raises:
        UserError: there are none, they are damaged, or an earlier version wrote them.
    """
    for folder in (path / "evaluation" / rows, path):
        if (file := folder / "predictions.parquet").is_file():
            try:
                table = pd.read_parquet(file)
            except (OSError, ValueError) as error:
                raise UserError(f"{file} is damaged ({error}): evaluate again: python eval.py {path}") from error
            if "group" not in table:
                raise UserError(f"{file} was written before rows had groups; evaluate again: python eval.py {path}")
            if "fold" in table and table.groupby("group")["fold"].nunique().max() > 1:
                raise UserError(
                    f"{file} mixes the groups of different folds; run python -m app kfold again: folds "
                    "that are done are not trained again."
                )
            return table.sort_values("row", ignore_index=True)
    there = sorted(p.parent.name for p in path.glob("evaluation/*/predictions.parquet"))
    hint = f"evaluate it first: python eval.py {shlex.quote(str(path))}"
    if there:
        hint = (
            f"it has {', '.join(there)} (--evaluation). For rows with different names in the two runs, give folders, "
            f"such as {path / 'evaluation' / there[0]}"
        )
    raise UserError(f"{path} has no evaluation of {rows!r} rows; {hint}.")


def compare(first: pd.DataFrame, second: pd.DataFrame) -> Comparison:
    """Compare two tables of predictions on the same rows.

    Rows about one image, or with one value of ``data.group`` in either evaluation, are not independent, as McNemar's
    test would assume. They are resampled, and change their sign in `sign_flip_test`, as a group.

    Raises:
        UserError: the rows are not the same.
    """
    label_type = first.attrs.get(LABEL_TYPE, "single")
    first, second = (table if "weight" in table else table.assign(weight=1.0) for table in (first, second))
    second = in_order_of(first, second)
    if len(first) != len(second) or not first[IDENTITY].equals(second[IDENTITY]):
        same = numbered(first).merge(numbered(second))
        raise UserError(
            f"The runs were evaluated on different rows: {len(first):,} and {len(second):,}, of which {len(same):,} "
            "are the same and count the same. Evaluate both on one file: python eval.py RUN --data.test FILE"
        )
    correct = [table[CORRECT].to_numpy() for table in (first, second)]
    weights = first["weight"].to_numpy() / first["weight"].mean()
    gain = correct[1].astype(float) - correct[0]
    groups = connect_groups(*(table["group"].astype(str).tolist() for table in (first, second)))
    return Comparison(
        rows=len(first),
        images=int(first["image_key"].nunique()),
        accuracy=[float(np.average(c, weights=weights)) for c in correct],
        groups=len(np.unique(groups)),
        difference=mean_interval(gain, Resampler(groups), least=-1, weights=weights),
        p=sign_flip_test(weights * gain, groups),
        better_first=int((gain < 0).sum()),
        better_second=int((gain > 0).sum()),
        label_type=label_type,
    )


def numbered(table: pd.DataFrame) -> pd.DataFrame:
    """The content of rows, with a number that tells equal rows apart."""
    return table[IDENTITY].assign(number=table.groupby(IDENTITY, dropna=False).cumcount())


def in_order_of(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The second table with its rows in the order of equal rows of the first."""
    if len(first) != len(second):
        return second
    columns = [*IDENTITY, "row"]
    return second.sort_values(columns).set_axis(first.sort_values(columns).index).sort_index()


def holds_rows(predictions: Path, rows: Rows) -> bool:
    """Whether a file of predictions has the content of these rows, in the same order."""
    try:
        table = pq.read_table(predictions, columns=CONTENT)
    except (OSError, ValueError):  # missing, damaged, or of an earlier version
        return False
    now = [list(rows.image_keys), list(rows.texts), list(rows.labels)]
    return [table[name].to_pylist() for name in CONTENT] == now


def sign_flip_test(differences: np.ndarray, groups: np.ndarray, resamples: int = 9999) -> float:
    """Two-sided p-value of a mean difference of zero (permutation test by cluster, Good 2005, chapter 3).

    The sum of each group's differences changes its sign at random. The test is exact if few groups differ
    (up to 13 with the default number of resamples).
    """
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], differences)
    sums = sums[abs(sums) > 1e-9]  # a sign changes nothing in the others
    if len(sums) < 2:  # both signs are equally extreme
        return 1.0

    def statistic(sample: np.ndarray, axis: int) -> np.ndarray:
        return sample.sum(axis=axis).round(9)  # ties that rounding errors would break

    found = permutation_test(
        (sums,),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=1000,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)
