"""Rows of image and text to answer, read from a table or a folder of images one at a time."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from app.inference.predictor import Predictor
from app.inference.python_rows import find_columns, wanted_columns
from data import require_columns
from data.cells import is_blank
from data.column_names import refuse_repeated
from data.contexts import ContextCell, context_columns, file_columns, read_cell
from data.errors import UserError
from data.groups import group_name
from data.image_cells import resolve_image
from data.image_formats import IMAGE_ENDINGS
from data.settings import NamedContext
from data.sources import METADATA, fetch_files, load_source
from data.table_file import READERS
from data.text_template import make_text
from data.videos import VIDEO_ENDINGS

SAVED = ("state.json", "dataset_dict.json")
"""Files of a folder that was saved by `datasets`."""


@dataclass(frozen=True)
class SourceRow:
    """One row to answer.

    Attributes:
        row: its number in the source, from 0.
        name: the path of its image as the source has it; ``None`` without one.
        image: a file, encoded bytes, ``None`` for no image, or the error of an image that cannot be used.
        text: ``None`` for no text.
        contexts: the row's further contexts by name, or the error of one that cannot be read.
        case: what its rows share one answer with, if a column of cases was named; ``None`` for none.
    """

    row: int
    name: str | None
    image: str | bytes | UserError | None
    text: str | None
    case: str | None = None
    contexts: dict[str, ContextCell | None] | UserError = field(default_factory=dict)


@dataclass(frozen=True)
class SourceRows:
    """The rows of a source, read lazily.

    Attributes:
        number: how many.
        absent: columns of the training that the source lacks, by ``image`` and ``text``; rows are answered without
            that input.
        has_labels: whether the rows could be scored, too.
    """

    rows: Iterable[SourceRow]
    number: int
    absent: dict[str, list[str]] = field(default_factory=dict)
    has_labels: bool = False


def open_rows(
    predictor: Predictor,
    source: str | Path,
    text: str | None = None,
    image_root: str | Path | None = None,
    max_rows: int | None = None,
    cache_dir: str | Path | None = None,
    columns: dict[str, str] | None = None,
    confined: bool = True,
    pool: str | None = None,
) -> SourceRows:
    """Open a source; see `app.inference.batch_predict.answer_table` for the arguments and errors.

    Args:
        pool: column of cases.
    """
    path = Path(source)
    if path.is_dir() and not is_table_folder(path):
        if pool:
            raise UserError(f"{source} is a folder of images: it has no column {pool!r} of cases.")
        if predictor.contexts:
            names = ", ".join(context.name for context in predictor.contexts)
            raise UserError(f"{source} is a folder of images, without the contexts {names} of the model: give a table.")
        return folder_rows(path, text, IMAGE_ENDINGS if predictor.model.config.frames == 1 else VIDEO_ENDINGS)
    table, folder = load_source(str(source), "test", cache_dir=cache_dir)
    if not len(table):
        raise UserError(f"{source} has no rows.")
    if max_rows is not None and len(table) > max_rows:
        raise UserError(f"The table has {len(table):,} rows; {max_rows:,} are allowed.")
    root = Path(image_root) if image_root else folder
    config = predictor.model.config
    contexts = [NamedContext.of_spec(spec) for spec in config.contexts or ()]
    trained = (config.columns or {}) | ({} if config.has_text else {"text": ""})
    return table_rows(table, str(source), trained, columns or {}, text, root, confined, pool, contexts)


def is_table_folder(folder: Path) -> bool:
    """Whether a folder is a table rather than a folder of images: saved by `datasets`, or with a metadata table.

    Photo albums have a ``metadata.json`` of another kind, which names no files of a column ``file_name``.
    """
    tables = [file for file in folder.glob(f"{METADATA}.*") if file.suffix.lower() in READERS]
    return any((folder / name).exists() for name in SAVED) or any(
        file.suffix.lower() != ".json" or b'file_name"' in file.read_bytes() for file in tables
    )


def folder_rows(folder: Path, text: str | None, endings: Sequence[str]) -> SourceRows:
    """Every image or video of a folder and its subfolders, with one text for all."""
    files = sorted(file for file in files_below(folder) if file.suffix.lower() in endings)
    if not files:
        raise UserError(f"{folder} holds no files that the model can answer about ({', '.join(endings)}).")
    return SourceRows([SourceRow(row, str(file), str(file), text) for row, file in enumerate(files)], len(files))


def files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder and its subfolders. A folder that several links lead to is searched once."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))
        yield from (Path(parent, name) for name in names)


def table_rows(
    table: Dataset,
    source: str,
    trained: dict[str, str] | None,
    chosen: dict[str, str],
    text: str | None,
    image_root: Path | None,
    confined: bool,
    pool: str | None = None,
    contexts: Sequence[NamedContext] = (),
) -> SourceRows:
    """The rows of a table; an image that cannot be used is an error of its row.

    Args:
        source: what the table is called in messages.
        trained: columns of the training, ``image``, ``text`` and ``label``.
        chosen: columns in their place, which must be there.
        text: of every row, if the table has no texts.
        pool: column of cases.
        contexts: further contexts of the model.

    Raises:
        UserError: columns that are absent or repeated, or texts in the table and in ``text``.
    """
    columns, names = (trained or {}) | chosen, table.column_names
    wanted = wanted_columns(columns)
    for setting, of in wanted.items():
        refuse_repeated(names, setting, of, source)
    needed = {setting: wanted[setting] for setting in chosen} | ({"pool": [pool]} if pool else {})
    require_columns(names, needed, source)
    image_column, text_column = find_columns(columns, names, source)
    if text is not None and text_column:
        raise UserError(f"{source} has texts of its own, in {text_column!r}: leave out --text.")
    wanted |= {f"context.{context.name}": list(context_columns([context])) for context in contexts}
    absent = {setting: [name for name in of if name not in names] for setting, of in wanted.items()}
    if text is not None:
        absent.pop("text")
    contexts = [context for context in contexts if not absent[f"context.{context.name}"]]
    fetch_files(table, ({image_column: ""} if image_column else {}) | file_columns(contexts), image_root)
    return SourceRows(
        read_rows(table, image_column, text_column, text, image_root, confined, pool, contexts),
        len(table),
        {setting: missing for setting, missing in absent.items() if missing},
        has_labels(table, columns.get("label", "label")),
    )


def read_rows(
    table: Dataset,
    image_column: str | None,
    text_column: str | None,
    text: str | None,
    image_root: Path | None,
    confined: bool,
    pool: str | None,
    contexts: Sequence[NamedContext],
) -> Iterator[SourceRow]:
    """The rows of a table, one at a time; the arguments are those of `table_rows`."""
    for number, row in enumerate(table):
        image: str | bytes | UserError | None = None
        asked, cell = text, row[image_column] if image_column else None
        try:
            stored = resolve_image(cell, image_root, confined)
            image = stored.get("bytes") or stored.get("path") if isinstance(stored, dict) else stored
            asked = make_text(row, text_column) if text_column else text
        except UserError as error:
            image = error
        name = cell.get("path") if isinstance(cell, dict) else cell
        case = group_name(row[pool], pool) if pool else None
        name = name if isinstance(name, str) and name else None
        yield SourceRow(number, name, image, asked, case, read_contexts(row, contexts, image_root, confined))


def read_contexts(
    row: Mapping, contexts: Sequence[NamedContext], root: Path | None, confined: bool
) -> dict[str, ContextCell | None] | UserError:
    """The further contexts of a row by name, or the error of the first that cannot be read."""
    found = {}
    for context in contexts:
        try:
            found[context.name] = read_cell(row, context, root, confined)
        except UserError as error:
            return UserError(f"The context {context.name} is {error}")
    return found


def has_labels(table: Dataset, column: str) -> bool:
    """Whether any row has a label."""
    return column in table.column_names and any(not is_blank(row[column]) for row in table.select_columns([column]))
