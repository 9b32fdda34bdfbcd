"""Rows from wherever they are: every source becomes a `datasets` table with the user's own columns."""

import codecs
import csv
import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, IterableDataset, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError

from data.labels import NoLabelsError
from data.shapes import make_shapes

READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.\[\]%-]+)?")


def load_source(
    source: str, split: str, streaming: bool = False, cache_dir: str | Path | None = None
) -> tuple[Dataset | IterableDataset, Path | None]:
    """Open a source.

    Args:
        source: a table, a folder, a Hub id or ``shapes:N``, as `DataSettings.train` says.
        split: ``train``, ``validation`` or ``test``; the default split of a Hub id, and the seed of ``shapes``.
        streaming: read it as a stream.
        cache_dir: where `datasets` keeps a local table as it read it; its own place where not given.

    Returns:
        The rows, images undecoded, and the folder that image paths are relative to.

    Raises:
        ValueError: nothing there, an unknown kind, or a file that cannot be parsed.
    """
    if match := re.fullmatch(r"shapes:(\d+)", source):
        dataset, root = make_shapes(int(match[1]), split), None
    elif (path := Path(source)).exists():
        dataset, root = load_local(path, streaming, cache_dir)
    elif path.suffix.lower() not in READERS and HUB_ID.fullmatch(source):
        dataset, root = load_hub(source, split, streaming), None
    else:
        raise ValueError(
            f"There is no file or folder {source!r}. A source is a file ({', '.join(READERS)}), a folder, a Hub id "
            "(owner/name) or shapes:N."
        )
    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset, root


def load_local(path: Path, streaming: bool, cache_dir: str | Path | None) -> tuple[Dataset | IterableDataset, Path]:
    if path.is_dir():
        if (path / "state.json").exists():
            with explain_parser_errors(path, "a folder saved by datasets"):
                dataset = load_from_disk(path)
            return (dataset.to_iterable_dataset() if streaming else dataset), path
        if (path / "dataset_dict.json").exists():
            splits = sorted(folder.name for folder in path.iterdir() if (folder / "state.json").exists())
            raise ValueError(f"{path} holds several splits, {splits}; name one of them: {path / splits[0]}.")
        if not any(path.glob("**/metadata.*")):
            raise ValueError(f"{path} is neither a folder saved by datasets nor an image folder with metadata.csv.")
        with explain_parser_errors(path, "an image folder"):
            return load_dataset("imagefolder", data_dir=str(path), split="train", streaming=streaming), path
    ending = path.suffix.lower()
    if ending not in READERS:
        raise ValueError(f"{path} has an unknown ending; expected one of {', '.join(READERS)}.")
    options: dict[str, Any] = {"cache_dir": None if cache_dir is None else str(cache_dir)}
    if READERS[ending] == "csv":
        # Every cell stays the string it is: pandas would read "NA" and "None" as missing and "01" as 1.
        separator = "\t" if ending == ".tsv" else ","
        features = Features({name: Value("string") for name in read_header(path, separator)})
        options |= {"sep": separator, "features": features, "keep_default_na": False, "encoding": "utf-8-sig"}
    with explain_parser_errors(path, ending):
        reader = READERS[ending]
        return load_dataset(reader, data_files=str(path), split="train", streaming=streaming, **options), path.parent


@contextmanager
def explain_parser_errors(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a parser raises into a ``ValueError`` that names the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} could not be read as {kind}: {error.__cause__ or error}") from error


def read_header(path: Path, separator: str) -> list[str]:
    """Column names of a table; also finds what would make the parser fail or misread later, with the place."""
    check_utf8(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator)
        header, first = next(reader, []), next(reader, None)
        for row in chain([first] if first else [], reader):
            if len(row) > len(header):
                raise ValueError(
                    f"Line {reader.line_num} of {path} has {len(row)} cells, but the header names {len(header)} "
                    f"columns. Put cells that hold {'a tab' if separator != ',' else 'a comma'} in double quotes."
                )
    if header and first is None:
        raise ValueError(f"{path} has no rows, only a header line.")
    if not header:
        raise ValueError(f"{path} is empty; expected a header line with the column names.")
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise ValueError(f"{path} has columns of the same name: {repeated}.")
    return header


def check_utf8(path: Path) -> None:
    """Refuse a file with bytes that are not UTF-8, naming the first; reads it a piece at a time."""
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(piece)
            except UnicodeDecodeError as error:
                place = offset - waiting + error.start
                raise ValueError(
                    f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {place}. Save it as UTF-8."
                ) from error
            offset += len(piece)


def load_hub(source: str, split: str, streaming: bool) -> Dataset | IterableDataset:
    name, _, chosen = source.partition(":")
    try:
        return load_dataset(name, split=chosen or split, streaming=streaming)
    except (OSError, DatasetNotFoundError, ValueError) as error:
        raise ValueError(
            f"{source!r} is no file here, and as a data set of the HuggingFace Hub it could not be loaded: {error}. "
            "Offline, download it elsewhere with `hf download --repo-type dataset` and give the file."
        ) from error


def require_columns(found: list[str], wanted: dict[str, list[str]], source: str) -> None:
    """Check that the columns a setting names are there.

    Args:
        found: columns of the source.
        wanted: setting (``image``, ``text``, ``label``) → the columns it names.

    Raises:
        ValueError: names the missing columns, those found, and the nearest name; a `NoLabelsError` for ``label``.
    """
    for setting, names in wanted.items():
        for name in names:
            if name not in found:
                near = difflib.get_close_matches(name, found, n=1, cutoff=0.5)
                raise (NoLabelsError if setting == "label" else ValueError)(
                    f"{source} has no column {name!r}; it has {found}. "
                    + (f"Did you mean {near[0]!r}? " if near else "")
                    + f"Name the right one with --data.{setting} COLUMN."
                )
