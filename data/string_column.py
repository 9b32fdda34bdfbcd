"""Lists of strings on disk, so that memory does not grow with the number of rows."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

T = TypeVar("T", str, str | None)
BLOCK = 10_000
"""Strings that are written at a time, or read at a time in a pass over all."""


class StringColumn(Sequence[T]):
    """A read-only list of strings in a memory-mapped Arrow file; missing strings are ``None``.

    Args:
        strings: the column of the file.
        positions: indices of the strings in the list, in order; all of them by default.
    """

    def __init__(self, strings: pa.ChunkedArray, positions: np.ndarray | None = None):
        self.strings = strings
        self.positions = np.arange(len(strings)) if positions is None else positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return list(self.select(range(*index.indices(len(self)))))
        return self.strings[int(self.positions[index])].as_py()

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), BLOCK):
            yield from self.strings.take(pa.array(self.positions[start : start + BLOCK])).to_pylist()

    def __repr__(self) -> str:
        return f"StringColumn of {len(self):,}: {self[:3]} …"

    def select(self, indices: Iterable[int] | np.ndarray) -> StringColumn[T]:
        """The strings at these indices, without copying them."""
        return StringColumn(self.strings, self.positions[np.asarray(indices, dtype=np.int64)])

    def present(self) -> StringColumn[str]:
        """The strings that are not missing."""
        return StringColumn(self.strings, self.positions[np.fromiter((string is not None for string in self), bool)])


def write_columns(rows: Iterable[Sequence[str | None]], num_columns: int) -> list[StringColumn[Any]]:
    """Write columns to a temporary file, row by row. The file is deleted with the last of its columns.

    The file is written and mapped through one handle: on Linux a temporary file has no name, and on Windows it cannot
    be opened twice.
    """
    schema = pa.schema([(str(number), pa.large_string()) for number in range(num_columns)])
    rows = iter(rows)
    with tempfile.TemporaryFile() as file:
        with pa.ipc.new_file(file, schema) as writer:
            while block := list(islice(rows, BLOCK)):
                columns = [pa.array([row[i] for row in block], pa.large_string()) for i in range(num_columns)]
                writer.write_batch(pa.record_batch(columns, schema=schema))
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # keeps the file alive after it is closed
    table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
    return [StringColumn(table.column(number)) for number in range(num_columns)]
