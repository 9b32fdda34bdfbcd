"""Open a source as a `datasets` table with its own columns: a file, a folder, a Hub id or built-in data."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, IterableDataset, Json, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetsError
from tqdm.auto import tqdm

from data.cells import is_clean
from data.errors import UserError
from data.image_files import MAX_PATH, is_address
from data.messages import enumerate_names, excerpt, quote
from data.paths import expand_home
from data.remote_files import fetch, fetch_beside, is_url, origin, refuse_secrets
from data.shape_contexts import make_cards, make_clips, make_pairs, make_tones
from data.shapes import make_shapes
from data.table_file import READERS, TableFile, read_table

FETCHED_AT_ONCE = 16
"""Number of files that are fetched at the same time."""
METADATA = "metadata"
"""Name of the tables in an image folder, without ending."""
PARSER_ERRORS = (OSError, ValueError, KeyError, OverflowError, pa.ArrowException)
"""What parsers raise for files that they cannot read. Any other exception is a bug and keeps its traceback."""
BUILT_IN = {"shapes": make_shapes, "pairs": make_pairs, "cards": make_cards, "tones": make_tones, "clips": make_clips}
"""Names of the built-in data, and what draws them."""
BUILT_IN_SOURCE = re.compile(rf"({'|'.join(BUILT_IN)}):(\d+)")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.\[\]%-]+)?")


def load_source(
    source: str, split: str, streaming: bool = False, cache_dir: str | Path | None = None
) -> tuple[Dataset | IterableDataset, Path | None]:
    """Open a source.

    An existing file or folder with exactly this name comes first. Names are never patterns, and a name such as
    ``train.csv`` does not select a split.

    Args:
        source: a table or its URL, a folder, a Hub id or built-in data (``shapes:N``), see `DataSettings.train`.
        split: ``train``, ``validation`` or ``test``: the default split of a Hub id, and the seed of ``shapes``.
        streaming: open it as a stream.
        cache_dir: cache folder for local tables; that of `datasets` by default.

    Returns:
        The table, see `keep_encoded`, and the folder of relative image paths: for a URL that of the copy, where
        `fetch_files` puts the images.

    Raises:
        UserError: the source does not exist, has an unknown type, or cannot be parsed.
    """
    if not isinstance(source, str):
        raise UserError(
            f"A source must be a string, so that a run can find it again; got {type(source).__name__}. Write its rows "
            "to a file first: frame.to_parquet('rows.parquet') or dataset.save_to_disk('rows')."
        )
    source = expand_home(source)
    path = Path(source)
    if os.path.exists(source):
        dataset, root = load_local(path, streaming, cache_dir)
    elif match := BUILT_IN_SOURCE.fullmatch(source):
        dataset, root = BUILT_IN[match[1]](int(match[2]), split), None
    elif is_url(source):
        dataset, root = load_remote(source, streaming, cache_dir)
    elif path.suffix.lower() not in READERS and HUB_ID.fullmatch(source):
        dataset, root = load_hub(source, split, streaming), None
    else:
        raise UserError(
            f"There is no file or folder {quote(source)}. A source is a file ({', '.join(READERS)}) or its URL, a "
            f"folder, a Hub id (owner/name) or built-in data ({':N, '.join(BUILT_IN)}:N)."
        )
    return keep_encoded(dataset), root


def keep_encoded(table: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The table with images, sounds, videos and documents as they are stored, whether or not a column is read."""
    for name, feature in (table.features or {}).items():
        if hasattr(feature, "decode") and not isinstance(feature, Json):
            table = table.cast_column(name, replace(feature, decode=False))
    return table


def load_local(path: Path, streaming: bool, cache_dir: str | Path | None) -> tuple[Dataset | IterableDataset, Path]:
    if path.is_dir():
        if (path / "state.json").exists():
            with explain_parser_errors(path, "a folder saved by datasets"):
                dataset = load_saved(path)
            return (dataset.to_iterable_dataset() if streaming else dataset), path
        if (path / "dataset_dict.json").exists():
            splits = sorted(folder.name for folder in path.iterdir() if (folder / "state.json").exists())
            raise UserError(f"{path} holds several splits, {splits}; name one of them: {path / splits[0]}.")
        files, root = metadata_files(path), path
    elif path.suffix.lower() in READERS:
        with explain_parser_errors(path, path.suffix):
            files, root = [TableFile.open(path)], path.parent
    else:
        raise UserError(f"{path} has an unknown ending; expected one of {', '.join(READERS)}.")
    with explain_parser_errors(path, "a table"):
        return read_table(files, streaming, cache_dir), root


def load_remote(url: str, streaming: bool, cache_dir: str | Path | None) -> tuple[Dataset | IterableDataset, Path]:
    """Load the local copy of a table with a URL; errors name the URL."""
    refuse_secrets(url)
    if Path(url).suffix.lower() not in READERS:
        raise UserError(f"{url} is not the URL of a table; expected one that ends in {', '.join(READERS)}.")
    copy = fetch(url)
    try:
        return load_local(copy, streaming, cache_dir)
    except UserError as error:
        raise UserError(str(error).replace(str(copy), url)) from error


def fetch_files(table: Dataset | IterableDataset, columns: Mapping[str, str], root: Path | None) -> None:
    """Fetch the files that columns of a table with a URL name, several at a time; nothing is done for other tables.

    Args:
        columns: column of paths relative to the table → ending of its files, empty for any. Cells without this ending,
            and all others that are no paths, are passed over.
        root: folder of the table, see `load_source`.

    Raises:
        UserError: a file that cannot be read. A missing file is reported when its row is read.
    """
    if root is None or not (url := origin(root.absolute())):
        return
    dtypes = {name: getattr(feature, "dtype", None) for name, feature in (table.features or {}).items()}
    columns = {name: end for name, end in columns.items() if dtypes.get(name) not in ("binary", "large_binary")}
    if not columns:
        return
    names = set()
    for row in table.select_columns(list(columns)):
        for column, cell in row.items():
            path = cell.get("path") if isinstance(cell, dict) and cell.get("bytes") is None else cell
            if isinstance(path, str) and can_be_file(path) and path.lower().endswith(columns[column]):
                names.add(path)
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        fetched = pool.map(partial(fetch_beside, root.absolute()), sorted(names))
        for _ in tqdm(fetched, f"fetching files beside {url}", total=len(names), leave=False):
            pass


def can_be_file(cell: str) -> bool:
    """Whether a cell can be the path of a file."""
    return 0 < len(cell) <= MAX_PATH and not is_address(cell) and is_clean(cell)


def load_saved(folder: Path) -> Dataset:
    """Load a folder written by `Dataset.save_to_disk`. (`load_from_disk` misreads "::" in a path as chained URLs.)"""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return concatenate_datasets([Dataset.from_file(str(folder / file["filename"])) for file in state["_data_files"]])


def metadata_files(folder: Path) -> list[TableFile]:
    """The metadata tables of an image folder and its subfolders, hidden ones excluded.

    Raises:
        UserError: no table, several in one folder, or one that cannot be read or has no column ``file_name``.
    """
    paths = sorted(
        path
        for path in folder.rglob(f"{METADATA}.*")
        if path.suffix.lower() in READERS
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise UserError(f"{folder} is neither a folder saved by datasets nor an image folder with metadata.csv.")
    for path in paths:
        if beside := [other.name for other in paths if other.parent == path.parent and other != path]:
            raise UserError(f"{path.parent} holds {path.name} and {', '.join(beside)}; keep one of them.")
    files = []
    for path in paths:
        with explain_parser_errors(path, "the metadata of an image folder"):
            files.append(TableFile.open(path, path.parent.relative_to(folder)))
        if not any(map(files[-1].holds_paths, files[-1].columns)):
            names = enumerate_names(files[-1].columns)
            raise UserError(f"{path} has no column 'file_name' with the images' paths; it has [{names}].")
    if len(paths) > 1:
        print(f"{folder}: rows of {len(paths)} tables, {enumerate_names(str(p.relative_to(folder)) for p in paths)}")
    return files


@contextmanager
def explain_parser_errors(path: str | Path, kind: str) -> Iterator[None]:
    """Convert `PARSER_ERRORS`, also those that `datasets` wraps, to a `UserError` that names the file."""
    try:
        yield
    except (*PARSER_ERRORS, DatasetGenerationError) as error:
        cause = error.__cause__ or error
        if isinstance(error, DatasetGenerationError) and not isinstance(cause, PARSER_ERRORS):
            raise
        for fault in (error, cause):
            if isinstance(fault, ValueError) and str(path) in str(fault):
                raise UserError(str(fault)) from error
        raise UserError(f"{path} could not be read as {kind}: {excerpt(str(cause), 500)}") from error


def iterate(table: Dataset | IterableDataset, source: str) -> Iterator[dict]:
    """The rows of a table; errors of the parser of a stream name the source, see `explain_parser_errors`."""
    with explain_parser_errors(source, "rows"):
        yield from table


def load_hub(source: str, split: str, streaming: bool) -> Dataset | IterableDataset:
    name, _, chosen = source.partition(":")
    try:
        return load_dataset(name, split=chosen or split, streaming=streaming)
    except (OSError, DatasetsError, ValueError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        raise UserError(
            f"{source!r} is not a local file, and could not be loaded as a data set of the HuggingFace Hub: {cause}. "
            "Without a network, copy it here with `hf download --repo-type dataset` and give the file."
        ) from error
