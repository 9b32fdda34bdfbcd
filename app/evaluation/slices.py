"""Slices of rows: by the values of a column, by ranges of numbers, by the number of tokens."""

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from data import TEXT_SLICES, Rows
from data.cells import as_number, is_blank
from models import ImageTextProcessor

MAX_NUMBERS = 10
"""A column with more different numbers is cut at its quartiles."""
MAX_NAMES = 30
"""Largest number of slices by name; the rarest names share one slice."""


def slice_rows(rows: Rows, name: str, processor: ImageTextProcessor) -> dict[str, np.ndarray]:
    """Rows of each value of a column, or of one of `data.TEXT_SLICES`.

    Returns:
        value → mask of its rows ``(n,)``; numbers in rising order, names in alphabetical order. Each row is in exactly
        one slice.
    """
    if name not in TEXT_SLICES:
        return slices_by_value(rows.column(name))
    lengths = processor.count_tokens(rows.texts).tolist()
    limit = processor.tokenizer.model_max_length
    if name == "text_cut":
        return slices_by_value([f"cut at {limit} tokens" if length > limit else "whole" for length in lengths])
    return slices_by_value(lengths)


def slices_by_value(values: list) -> dict[str, np.ndarray]:
    """Masks of rows by value; many numbers are cut at their quartiles, and the rarest of many names share a slice."""
    series = pd.Series(parse_numbers(values))
    if is_numeric_dtype(series) and not is_bool_dtype(series):
        many = series.nunique() > MAX_NUMBERS
        parts = series.groupby(pd.qcut(series, 4, labels=False, duplicates="drop") if many else series, observed=True)
        found: dict[str, np.ndarray] = {}
        for _, part in parts:  # ranges that are printed alike are one slice
            found[range_name(part)] = found.get(range_name(part), False) | series.index.isin(part.index)
        return found | ({"None": series.isna().to_numpy()} if series.hasnans else {})
    names = series.map(str)
    frequent = names.value_counts().index
    if len(frequent) > MAX_NAMES:
        names = names.where(names.isin(frequent[: MAX_NAMES - 1]), "(others)")
    return {name: (names == name).to_numpy() for name in sorted(names.unique())}


def parse_numbers(values: list) -> list:
    """Numbers for the strings of a CSV column if all are numbers, with ``None`` for blank cells.

    A column of few different numbers keeps its strings: they may be codes, such as 007.
    """
    written = [value for value in values if not is_blank(value)]
    if not written or not all(isinstance(value, str) for value in written):
        return values
    numbers = {value: as_number(value) for value in written}
    if not np.isfinite(list(numbers.values())).all():
        return values
    if len(set(numbers.values())) > MAX_NUMBERS:
        return [None if is_blank(value) else numbers[value] for value in values]
    return ["None" if is_blank(value) else value for value in values]


def range_name(numbers: pd.Series) -> str:
    """The range of some numbers, with six digits."""
    low, high = f"{numbers.min():.6g}", f"{numbers.max():.6g}"
    return low if low == high else f"{low} to {high}"
