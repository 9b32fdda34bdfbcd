"""Cells of a table as text and as numbers."""

import numpy as np

from data.errors import UserError
from data.messages import quote


def cell_text(cell, column: str | None = None) -> str | None:
    """Text of a cell, the same for every table format; ``None`` if it is missing or NaN.

    Strings stay as they are. Numbers, booleans and dates of JSON and Parquet are written as by `str`: 7, 0.5, 100000.0,
    True, 2020-01-31.

    Args:
        column: of the cell, for messages.

    Raises:
        UserError: a list, an object or bytes.
    """
    if isinstance(cell, str):
        return cell
    if is_nested(cell):
        place = "" if column is None else f" of column {quote(column)}"
        raise UserError(f"A cell{place} holds {quote(cell)}; expected a text, a number or a boolean.")
    return None if is_null(cell) else str(cell)


def is_null(cell) -> bool:
    """Whether a cell is ``None``, NaN, ``pandas.NA`` or ``NaT``."""
    if cell is None or isinstance(cell, str | int | float):
        return cell is None or cell != cell
    import pandas as pd  # slow to import, and few cells hold anything else

    return bool(pd.api.types.is_scalar(cell) and pd.isna(cell))


def is_nested(cell) -> bool:
    """Whether a cell holds several values, or bytes."""
    return isinstance(cell, list | tuple | dict | set | bytes | np.ndarray)


def is_blank(cell) -> bool:
    """Whether a cell is ``None``, an empty string or spaces."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def as_number(value) -> float:
    """A number, or the number that a string holds; NaN for anything else, booleans included."""
    try:
        return float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def is_clean(text: str) -> bool:
    """Whether tokenizers and UTF-8 accept the text: it has no NUL character and no lone surrogate."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)
