"""Is one model better than another? The difference on the same rows, with an interval and a test."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from app.evaluation.bootstrap import mean_interval
from data import Rows
from data.errors import UserError
from data.splits import connect_groups

CONTENT = ["image_key", "text", "label"]
"""Columns of predictions.parquet that a row consists of; images by the key of their bytes."""
IDENTITY = [*CONTENT, "weight"]
"""Columns that must be the same in two evaluations: the row, whatever its number, and what it counts."""


def load_predictions(path: Path, rows: str) -> pd.DataFrame:
    """What eval.py wrote.

    Raises:
        UserError: there are no such predictions.
    """
    for folder in (path / "evaluation" / rows, path):
        if (file := folder / "predictions.parquet").is_file():
            table = pd.read_parquet(file)
            if "group" not in table:
                raise UserError(f"{file} was written before rows had groups; evaluate again: python eval.py {path}")
            if "fold" in table and table.groupby("group")["fold"].nunique().max() > 1:
                raise UserError(
                    f"{file} was written before groups were told apart by fold; run python -m app kfold again: folds "
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


def compare(first: pd.DataFrame, second: pd.DataFrame) -> dict:
    """Second less first, on the rows of both.

    The test flips the sign of each group's difference at random: how often is the sum as large as the one found, if
    the models are alike (a permutation test by cluster, Good 2005, chapter 3)? Rows about one image, or of one
    value of ``data.group`` in either evaluation, stay together, which McNemar's test would take for independent.

    Returns:
        ``rows``, ``images``, ``groups``, ``accuracy`` (of each), ``difference`` (value, low, high), ``p``,
        ``better_first`` and ``better_second`` (rows that this one answers better).

    Raises:
        UserError: the rows are not the same.
    """
    first, second = (table if "weight" in table else table.assign(weight=1.0) for table in (first, second))
    second = in_order_of(first, second)
    if len(first) != len(second) or not first[IDENTITY].equals(second[IDENTITY]):
        same = first[IDENTITY].merge(second[IDENTITY])
        raise UserError(
            f"The runs were evaluated on different rows: {len(first):,} and {len(second):,}, of which {len(same):,} "
            "are the same and count the same. Evaluate both on one file: python eval.py RUN --data.test FILE"
        )
    right = [table["correct"].to_numpy() for table in (first, second)]
    weights = first["weight"].to_numpy() / first["weight"].mean()
    gain = right[1].astype(float) - right[0]
    groups = connect_groups(*(table["group"].astype(str).tolist() for table in (first, second)))
    return {
        "rows": len(first),
        "images": int(first["image_key"].nunique()),
        "accuracy": [float(np.average(r, weights=weights)) for r in right],
        "groups": len(np.unique(groups)),
        "difference": mean_interval(gain, groups, least=-1, weights=weights),
        "p": sign_flip_test(weights * gain, groups),
        "better_first": int((gain < 0).sum()),
        "better_second": int((gain > 0).sum()),
    }


def in_order_of(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The second table with its rows beside those of the first that have the same content, whatever their numbers."""
    if len(first) != len(second):
        return second
    columns = [*IDENTITY, "row"]
    return second.sort_values(columns).set_axis(first.sort_values(columns).index).sort_index()


def holds_rows(predictions: Path, rows: Rows) -> bool:
    """Whether these predictions are of rows with this content, in this order."""
    try:
        table = pq.read_table(predictions, columns=CONTENT)
    except (OSError, ValueError):  # there is none, or it is damaged, or of an earlier version
        return False
    now = [list(rows.image_keys), list(rows.texts), list(rows.labels)]
    return [table[name].to_pylist() for name in CONTENT] == now


def sign_flip_test(differences: np.ndarray, groups: np.ndarray, flips: int = 10_000) -> float:
    """Two-sided p-value of a mean difference of zero; groups keep or change their sign as a whole."""
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], differences)
    rng, found = np.random.default_rng(0), abs(sums.sum())
    as_large = sum(
        int((abs(rng.choice([-1.0, 1.0], (1000, len(sums))) @ sums) >= found - 1e-9).sum())
        for _ in range(flips // 1000)
    )
    return (as_large + 1) / (flips + 1)


def describe(figures: dict, names: tuple[str, str]) -> str:
    """The comparison in words."""
    one, two = figures["accuracy"]
    difference, p = figures["difference"], figures["p"]
    told = f"{100 * difference['value']:+.1f} points [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"
    meaning = "the rows do not tell which is better"
    if p < 0.05:
        meaning = f"{names[difference['value'] > 0]} is better on rows like these"
    return (
        f"{figures['rows']:,} rows, {figures['images']:,} images, {figures['groups']:,} groups that stay together\n\n"
        f"{one:>8.1%}  {names[0]}\n{two:>8.1%}  {names[1]}\n\n"
        f"difference {told}, p = {p:.4f}: {meaning}\n"
        f"better in {names[0]}: {figures['better_first']:,} rows; in {names[1]}: {figures['better_second']:,}"
    )
