"""A table that is measured row by row, within a time, whatever fails in it."""

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from benchmarks.timing import DEVICE

Measure = Callable[[float], Sequence[str]]
"""Measures until a time (`time.time`), and returns the cells of a row that follow its names."""


@dataclass
class Table:
    """A table that is printed row by row.

    Attributes:
        about: what it measures, and how.
        columns: the names of all columns.
        cases: the first cells of each row, and how to measure the others.
    """

    about: str
    columns: Sequence[str]
    cases: Sequence[tuple[Sequence[str], Measure]]


def lines(table: Table, until: float) -> Iterator[str]:
    """The lines of a table in Markdown. Rows share the time evenly; those for which none is left are named below."""
    yield f"{table.about}\n"
    yield row(table.columns)
    yield row(["---"] * len(table.columns))
    left_out: list[str] = []
    for place, (names, measure) in enumerate(table.cases):
        now = time.time()
        if now >= until:
            left_out.append(" ".join(names))
            continue
        cells = attempt(measure, now + (until - now) / (len(table.cases) - place))
        yield row([*names, *cells, *["–"] * (len(table.columns) - len(names) - len(cells))])
    if left_out:
        yield f"\nThe time was over before {len(left_out)} rows: {'; '.join(left_out)}."


def attempt(measure: Measure, until: float) -> Sequence[str]:
    """The cells of a row, or one cell with the reason why there are none; then free the memory of the row."""
    try:
        return measure(until)
    except Exception as error:
        traceback.print_exc()
        return [f"not measured: {reason(error)}"]
    finally:
        gc.collect()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()


def reason(error: Exception) -> str:
    """An error in one line that fits into a table."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}".replace("|", "/")[:160]


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
