"""Rows told apart: by the values of a column, by ranges of numbers, by their texts as the model reads them."""

from functools import lru_cache

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from data import TEXT_SLICES, Rows
from data.cells import as_number, is_blank
from models import ImageTextProcessor

MAX_NUMBERS = 10
"""More different numbers than these are told apart by quarters of the rows."""
MAX_NAMES = 30
"""More different names than these are told apart but for the rarest, which go together."""


def slice_rows(rows: Rows, name: str, processor: ImageTextProcessor) -> dict[str, np.ndarray]:
    """Which rows have each value of a column, or of one of `data.TEXT_SLICES`.

    Returns:
        value → which rows ``(n,)`` bool, in order: numbers rising, names by the alphabet. Each row is in one of them.
    """
    if name not in TEXT_SLICES:
        return tell_apart(rows.column(name))
    tokens = lru_cache(maxsize=4096)(lambda text: len(processor.tokenizer(text, verbose=False)["input_ids"]))
    lengths = [tokens(text) if text else 0 for text in rows.texts]
    limit = processor.tokenizer.model_max_length
    if name == "text_cut":
        return tell_apart([f"cut at {limit} tokens" if length > limit else "whole" for length in lengths])
    return tell_apart(lengths)


def tell_apart(values: list) -> dict[str, np.ndarray]:
    """Rows by value: many numbers by quarters of the rows, the rarest of many names together."""
    series = pd.Series(parse_numbers(values))
    if is_numeric_dtype(series) and not is_bool_dtype(series):
        many = series.nunique() > MAX_NUMBERS
        parts = series.groupby(pd.qcut(series, 4, duplicates="drop") if many else series, observed=True)
        found: dict[str, np.ndarray] = {}
        for _, part in parts:  # numbers that are written alike go together
            found[span(part)] = found.get(span(part), False) | series.index.isin(part.index)
        return found | ({"None": series.isna().to_numpy()} if series.hasnans else {})
    names = series.map(str)
    frequent = names.value_counts().index
    if len(frequent) > MAX_NAMES:
        names = names.where(names.isin(frequent[: MAX_NAMES - 1]), "(others)")
    return {name: (names == name).to_numpy() for name in sorted(names.unique())}


def parse_numbers(values: list) -> list:
    """Values of a CSV, which are strings, as numbers where all are, blank ones missing; few stay as they are written.

    Few of them may be codes, such as 007.
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


def span(numbers: pd.Series) -> str:
    low, high = f"{numbers.min():.6g}", f"{numbers.max():.6g}"
    return low if low == high else f"{low} to {high}"
