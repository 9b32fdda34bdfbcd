"""Groups of rows that belong together: rows of one image or one patient, and cases whose rows share one answer."""

from __future__ import annotations

import numpy as np

from data.cells import cell_text
from data.errors import UserError
from data.label_format import LabelFormat
from data.messages import quote
from data.rows import Rows
from data.splits import connect_groups

SHOWN = 3
"""Number of cases that a message names."""


def row_groups(rows: Rows, group: str | None, pool: str | None = None) -> np.ndarray:
    """Group number of each row: rows with the same image, the same value of the group column, or of one case.

    Args:
        pool: column of the cases, ignored if the rows lack it.
    """
    columns = [group] if group else []
    columns += [pool] if pool and pool in rows.table.column_names else []
    return connect_groups(rows.image_keys, *(group_names(rows, column) for column in columns))


def group_names(rows: Rows, group: str) -> list[str | None]:
    """Value of the group column in each row; ``None`` for an empty cell, which belongs to no group."""
    return [group_name(value, group) for value in rows.column(group)]


def group_name(cell, column: str) -> str | None:
    """The group that a cell of a column names; ``None`` for an empty one.

    Raises:
        UserError: a list, an object or bytes.
    """
    return (cell_text(cell, column) or "").strip() or None


def describe_groups(group: str | None, pool: str | None = None) -> str:
    """What `row_groups` groups by, in words."""
    return " and ".join(dict.fromkeys(name for name in ("image", group, pool) if name))


def case_numbers(rows: Rows, column: str, form: LabelFormat) -> np.ndarray:
    """The case of each row ``(n,)``, numbered in the order of their first rows; an empty cell is a case of its own.

    Raises:
        UserError: rows of one case with different labels; names the first cases.
    """
    numbers: dict[str | int, int] = {}
    names = group_names(rows, column)
    found = np.array([numbers.setdefault(name or row, len(numbers)) for row, name in enumerate(names)], dtype=np.int64)
    labels: dict[str, str] = {}
    different = {
        name: f"{quote(name)} has {quote(labels[name])} and {quote(label)}"
        for name, label in zip(names, rows.labels, strict=True)
        if name is not None and sorted(form.names(labels.setdefault(name, label))) != sorted(form.names(label))
    }
    if different:
        listed = "; ".join(list(different.values())[:SHOWN])
        raise UserError(
            f"The rows of a case share one answer, but {len(different)} of the cases in column {column} of "
            f"{rows.source} have rows with different labels: {listed}. Leave out --data.pool (--data.pool '' if the "
            "run has it), or name a column whose rows have one label."
        )
    return found
