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
MISSING = "(missing)"
"""Slice of the rows whose cell is empty."""


def slice_rows(rows: Rows, name: str, processor: ImageTextProcessor) -> dict[str, np.ndarray]:
    """Rows of each value of a column, or of one of `data.TEXT_SLICES`.

    Returns:
        value → mask of its rows ``(n,)``; numbers in rising order, names in alphabetical order, rows without a value
        as `MISSING`. Each row is in exactly one slice.
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
    series = pd.Series(parse_numbers([None if is_blank(value) else value for value in values]))
    if is_numeric_dtype(series) and not is_bool_dtype(series):
        found = slices_of_numbers(series)
        return found | ({MISSING: series.isna().to_numpy()} if series.hasnans else {})
    names = series.map(str).where(series.notna(), MISSING)
    frequent = names.value_counts().index
    if len(frequent) > MAX_NAMES:
        names = names.where(names.isin(frequent[: MAX_NAMES - 1]), "(others)")
    return {name: (names == name).to_numpy() for name in sorted(names.unique())}


def slices_of_numbers(series: pd.Series) -> dict[str, np.ndarray]:
    """Masks of rows by number, or by the quartiles of many numbers; infinite numbers are slices of their own."""
    part = series
    if series.nunique() > MAX_NUMBERS:
        part = series.where(np.isinf(series))
        finite = series[np.isfinite(series)]
        part[finite.index] = finite.groupby(quarter(finite)).transform("min")
    bounds = series.groupby(part).agg(["min", "max"])
    names = range_names(bounds["min"].tolist(), bounds["max"].tolist())
    return {name: (part == start).to_numpy() for name, start in zip(names, bounds.index, strict=True)}


def quarter(numbers: pd.Series) -> pd.Series:
    """Number of the quarter of each finite number; if so many are equal that one range is left, equal or not."""
    found = pd.qcut(numbers, 4, labels=False, duplicates="drop")
    return found if found.nunique() > 1 else numbers == numbers.mode()[0]


def parse_numbers(values: list) -> list:
    """Numbers for the strings of a CSV column if all are numbers; ``None`` stays.

    A column of few different numbers keeps its strings: they may be codes, such as 007.
    """
    written = [value for value in values if value is not None]
    if not written or not all(isinstance(value, str) for value in written):
        return values
    numbers = {value: as_number(value) for value in written}
    if not np.isfinite(list(numbers.values())).all():
        return values
    return [numbers.get(value) for value in values] if len(set(numbers.values())) > MAX_NUMBERS else values


def range_names(lows: list, highs: list) -> list[str]:
    """The names of ranges of numbers, with six digits, or as many as it takes to tell their ends apart."""
    ends = {*lows, *highs}
    for digits in range(6, 18):
        shown = {end: number_name(end, digits) for end in ends}
        if len(set(shown.values())) == len(ends):
            break
    return [
        shown[low] if low == high else f"{shown[low]} to {shown[high]}" for low, high in zip(lows, highs, strict=True)
    ]


def number_name(number: float, digits: int) -> str:
    """A number with some digits; a whole number in full."""
    is_whole = isinstance(number, int) or (number.is_integer() and abs(number) < 1e16)
    return str(int(number)) if is_whole else f"{number:.{digits}g}"
