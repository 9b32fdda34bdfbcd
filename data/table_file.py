"""Read table files. The same table gives the same rows in every format."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets import Dataset, Features, IterableDataset, Value
from datasets.fingerprint import Hasher

from data.cells import cell_text
from data.column_names import distinct_names
from data.csv_file import csv_columns, csv_rows
from data.hashing import sha256
from data.json_file import json_columns, json_rows
from data.parquet_file import parquet_columns, parquet_rows


@dataclass(frozen=True)
class Reader:
    """Functions that read a format: ``columns`` checks the whole file, ``rows`` yields a dictionary for each row."""

    columns: Callable[[Path], Features]
    rows: Callable[[Path, Features], Iterator[dict]]


def csv_reader(separator: str) -> Reader:
    return Reader(partial(csv_columns, separator=separator), lambda path, _: csv_rows(path, separator))


READERS = {
    ".csv": csv_reader(","),
    ".tsv": csv_reader("\t"),
    ".json": Reader(json_columns, json_rows),
    ".jsonl": Reader(json_columns, json_rows),
    ".parquet": Reader(parquet_columns, parquet_rows),
}
"""File name ending → reader."""


@dataclass(frozen=True)
class TableFile:
    """A table file.

    Args:
        path: of the file.
        columns: columns in the file.
        folder: for the metadata of an image folder, the table's folder relative to the image folder. Then column
            ``file_name`` is renamed to ``image``, as in `datasets`, and ``X_file_name`` to ``X``.
    """

    path: Path
    columns: Features
    folder: Path | None = None

    @classmethod
    def open(cls, path: Path, folder: Path | None = None) -> "TableFile":
        """Read the columns and check the file.

        Raises:
            UserError: the file cannot be read; names the place.
        """
        return cls(path, READERS[path.suffix.lower()].columns(path), folder)

    def names(self) -> dict[str, str]:
        """Column name in the file → column name in the table."""
        if self.folder is None:
            return {name: name for name in self.columns}
        called = ["image" if name == "file_name" else name.removesuffix("_file_name") for name in self.columns]
        return dict(zip(self.columns, distinct_names(called), strict=True))

    def holds_paths(self, name: str) -> bool:
        """Whether a column holds file names of an image folder."""
        return self.folder is not None and (name == "file_name" or name.endswith("_file_name"))

    def features(self) -> Features:
        """Columns by their name in the table."""
        return Features(
            {
                called: Value("string") if self.holds_paths(name) else self.columns[name]
                for name, called in self.names().items()
            }
        )

    def rows(self) -> Iterator[dict]:
        """Rows with the column names of the table, and image paths relative to the image folder."""
        names = self.names()
        for row in READERS[self.path.suffix.lower()].rows(self.path, self.columns):
            yield {
                called: self.image_path(row.get(name)) if self.holds_paths(name) else row.get(name)
                for name, called in names.items()
            }

    def image_path(self, cell) -> str | None:
        """Path of an image relative to the image folder; ``None`` for a blank cell."""
        name = cell_text(cell)
        return str(self.folder / name) if self.folder and name and name.strip() else None


def read_table(files: list[TableFile], streaming: bool, cache_dir: str | Path | None) -> Dataset | IterableDataset:
    """Concatenate the rows of files, as a stream or in the cache of `datasets`.

    Columns with different types in different files are read as text. The cache key is a hash of the files' content and
    of the code of this package.
    """
    features = join_features([file.features() for file in files])
    rows = {"files": tuple(files), "features": features}
    if streaming:
        return IterableDataset.from_generator(read_rows, features=features, gen_kwargs=rows)
    code = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    content = [(file.path.suffix, str(file.folder), sha256(file.path)) for file in files]
    return Dataset.from_generator(
        read_rows,
        features=features,
        gen_kwargs=rows,
        cache_dir=None if cache_dir is None else str(cache_dir),
        fingerprint=Hasher.hash([code, content]),
    )


def join_features(parts: list[Features]) -> Features:
    """Columns of all files; those with different types become text."""
    joined = Features()
    for features in parts:
        for name, feature in features.items():
            joined[name] = feature if joined.get(name, feature) == feature else Value("string")
    return joined


def read_rows(files: tuple[TableFile, ...], features: Features) -> Iterator[dict]:
    """Rows of all files; columns that a file does not have are missing values."""
    for file in files:
        as_text = {name for name, feature in file.features().items() if features[name] != feature}
        for row in file.rows():
            yield {name: cell_text(row.get(name)) if name in as_text else row.get(name) for name in features}
