"""Columns of strings that stay on the disk, so that the memory does not grow with the rows."""

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
"""Strings that are written, or read on a pass over all, at a time."""


class StringColumn(Sequence[T]):
    """A read-only list of strings, ``None`` where one is missing, of an Arrow file that is mapped into memory.

    Args:
        strings: the column of the file.
        positions: those of its strings that the list consists of, in order; all where not given.
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
        """The strings at these positions, of the same file."""
        return StringColumn(self.strings, self.positions[np.asarray(indices, dtype=np.int64)])

    def present(self) -> StringColumn[str]:
        """Those that are not missing."""
        return StringColumn(self.strings, self.positions[np.fromiter((string is not None for string in self), bool)])


def write_columns(rows: Iterable[Sequence[str | None]], number: int) -> list[StringColumn[Any]]:
    """Put a number of columns, a row at a time, in a temporary file, which goes when the last of them does.

    The file is written and mapped through one handle: a temporary file has no name on Linux, and on Windows it cannot
    be opened a second time.
    """
    schema = pa.schema([(str(place), pa.large_string()) for place in range(number)])
    rows = iter(rows)
    with tempfile.TemporaryFile() as file:
        with pa.ipc.new_file(file, schema) as writer:
            while block := list(islice(rows, BLOCK)):
                columns = [pa.array([row[place] for row in block], pa.large_string()) for place in range(number)]
                writer.write_batch(pa.record_batch(columns, schema=schema))
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # holds the file after it is closed
    table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
    return [StringColumn(table.column(place)) for place in range(number)]
