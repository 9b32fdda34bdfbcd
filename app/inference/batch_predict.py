"""Many pairs at once: a table, a folder of images or a zip archive in, a table of answers out, faults row by row."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
from datasets import Dataset

from app.inference.predictor import Prediction, Predictor
from data import Example, require_columns
from data.cells import is_blank, is_clean
from data.column_names import refuse_repeated
from data.errors import UserError
from data.image_cells import resolve_image
from data.images import IMAGE_ENDINGS
from data.messages import enumerate_names, excerpt_path, quote
from data.sources import load_source
from data.text_template import make_text, text_columns


@dataclass(frozen=True)
class Pair:
    """One row to answer.

    Attributes:
        row: its number in the source, from 0.
        name: the path of its image as the source has it; ``None`` where there is none.
        image: a file, encoded bytes, ``None`` when there is none, or what is wrong with it.
        text: ``None`` when there is none.
    """

    row: int
    name: str | None
    image: str | bytes | UserError | None
    text: str | None


@dataclass(frozen=True)
class Pairs:
    """The rows of a source, read as they are asked for.

    Attributes:
        number: how many.
        absent: columns of images, or of texts, that the model was trained with and the source lacks, by ``image`` and
            ``text``: its rows are answered without that input.
        has_labels: whether the rows could be scored, too.
    """

    rows: Iterable[Pair]
    number: int
    absent: dict[str, list[str]] = field(default_factory=dict)
    has_labels: bool = False


@dataclass(frozen=True)
class Answers:
    """What `answer_pairs` found.

    Attributes:
        table: a line a row, as `answer_table` describes it.
        reasons: why rows are not answered → their numbers. Names of images are left out, so that rows with one fault
            stand together.
    """

    table: pd.DataFrame
    reasons: dict[str, list[int]]


class AbsentColumnsError(UserError):
    """A table with neither images nor texts where they are looked for."""


def answer_table(
    predictor: Predictor,
    source: str | Path,
    text: str | None = None,
    image_root: str | Path | None = None,
    batch_size: int = 32,
    told: Callable[[int], object] | None = None,
    max_rows: int | None = None,
    cache_dir: str | Path | None = None,
    top_k: int = 3,
    columns: dict[str, str] | None = None,
    confined: bool = True,
) -> pd.DataFrame:
    """Answer every row of a source.

    Args:
        source: a table with the columns the model was trained on (one of image and text may be missing), any other
            source of `data.sources.load_source`, or a folder of images.
        text: asked about every image of a folder, or of a table without texts.
        image_root: folder that image paths are relative to; by default that of the table.
        told: called with the number of rows that are done.
        max_rows: a source with more is refused.
        cache_dir: where `datasets` keeps what it read; its own place where not given.
        top_k: how many labels a row; a model with fewer gives all of them.
        columns: ``image`` and ``text``, where they differ from those of the training.
        confined: refuse image paths that lead out of ``image_root``, by .. or by links, as a stranger's table might
            name; the owner of a table may switch it off.

    Returns:
        ``row`` (its number, from 0), ``image`` (its path, as the source has it), ``text``, ``prediction``,
        ``probability`` (of the whole prediction), ``sure``, ``error``, and the most probable labels, best first:
        ``label_1``, ``probability_1``, …, ``label_K``, ``probability_K``. A row that cannot be answered has only the
        first three and ``error``.

    Raises:
        UserError: a source that cannot be read, without the columns, without rows or with too many.
    """
    pairs = open_pairs(predictor, source, text, image_root, max_rows, cache_dir, columns, confined)
    return answer_pairs(predictor, pairs, top_k, batch_size, told).table


def answer_pairs(
    predictor: Predictor,
    pairs: Pairs,
    top_k: int = 3,
    batch_size: int = 32,
    told: Callable[[int], object] | None = None,
) -> Answers:
    """Answer rows, see `answer_table`; faults are told row by row."""
    waiting, found, reasons = iter(pairs.rows), [], defaultdict(list)
    while block := list(islice(waiting, batch_size)):
        prepared = predictor.prepare((pair.image, pair.text) for pair in block)
        examples = [example for example in prepared if isinstance(example, Example)]
        answers = iter(predictor.describe(predictor.probabilities(examples), top_k) if examples else [])
        for pair, example in zip(block, prepared, strict=True):
            if isinstance(example, UserError):
                reasons[reason(example, pair)].append(pair.row)
                found.append(describe(pair) | {"error": printable(str(example))})
            else:
                found.append(describe(pair) | describe_answer(predictor, next(answers)))
        if told is not None:
            told(len(found))
    names = ["row", "image", "text", "prediction", "probability", "sure", "error"]
    for place in range(1, min(top_k, len(predictor.labels)) + 1):
        names += [f"label_{place}", f"probability_{place}"]
    return Answers(pd.DataFrame(found, columns=names), dict(reasons))


def describe(pair: Pair) -> dict[str, object]:
    """The cells that say which row it is."""
    name, text = (cell if cell is None else printable(cell) for cell in (pair.name, pair.text))
    return {"row": pair.row, "image": name, "text": text}


def describe_answer(predictor: Predictor, answer: Prediction) -> dict[str, object]:
    """The cells of an answer."""
    cells: dict[str, object] = {
        "prediction": predictor.label_format.join(answer.labels),
        "probability": answer.confidence,
        "sure": answer.is_sure,
    }
    for place, best in enumerate(answer.answers, start=1):
        cells |= {f"label_{place}": best["label"], f"probability_{place}": best["probability"]}
    return cells


def reason(error: UserError, pair: Pair) -> str:
    """Why a row is not answered, without the name of its image."""
    told = str(error)
    if isinstance(pair.image, str):
        told = told.replace(pair.image, "…").replace(excerpt_path(pair.image), "…")
    if pair.name is not None:
        told = told.replace(quote(pair.name), "…")
    return printable(told)


def printable(text: str) -> str:
    """A text as a file of UTF-8 can hold it: NUL characters and lone surrogates are written out."""
    return text if is_clean(text) else "".join(char if is_clean(char) else repr(char)[1:-1] for char in text)


def write_answers(table: pd.DataFrame, path: Path) -> None:
    """Write what `answer_table` returns as ``.csv`` or ``.parquet``; both hold the same.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        if path.suffix.lower() == ".csv":
            table.to_csv(path, index=False)
        else:
            types = {"row": pa.int64(), "sure": pa.bool_()}
            types |= {name: pa.float64() for name in table.columns if name.startswith("probability")}
            schema = pa.schema([(name, types.get(name, pa.string())) for name in table.columns])
            table.to_parquet(path, index=False, schema=schema)  # a column without a value has its type, too
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error


def open_pairs(
    predictor: Predictor,
    source: str | Path,
    text: str | None = None,
    image_root: str | Path | None = None,
    max_rows: int | None = None,
    cache_dir: str | Path | None = None,
    columns: dict[str, str] | None = None,
    confined: bool = True,
) -> Pairs:
    """Open a source, see `answer_table`."""
    path = Path(source)
    saved = ("metadata.*", "state.json", "dataset_dict.json")
    if path.is_dir() and not any(file for name in saved for file in path.glob(name)):
        return folder_pairs(path, text)
    root = Path(image_root) if image_root else None
    return table_pairs(str(source), predictor, root, cache_dir, max_rows, text, columns, confined)


def folder_pairs(folder: Path, text: str | None) -> Pairs:
    """Every image of a folder and those below it, with one text for all."""
    files = sorted(file for file in files_below(folder) if file.suffix.lower() in IMAGE_ENDINGS)
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(IMAGE_ENDINGS)}).")
    return Pairs([Pair(row, str(file), str(file), text) for row, file in enumerate(files)], len(files))


def files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder and those below it, of each folder once however many links lead to it."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))
        yield from (Path(parent, name) for name in names)


def table_pairs(
    source: str,
    predictor: Predictor,
    image_root: Path | None,
    cache_dir: str | Path | None = None,
    max_rows: int | None = None,
    text: str | None = None,
    chosen: dict[str, str] | None = None,
    confined: bool = True,
) -> Pairs:
    """The rows of a table; an image that cannot be used, as `answer_table` says, is a fault of its row.

    Args:
        text: of every row; the table must have none then.
        chosen: columns that must be there, ``image`` and ``text``.
    """
    table, folder = load_source(source, "test", cache_dir=cache_dir)
    if not len(table):
        raise UserError(f"{source} has no rows.")
    if max_rows is not None and len(table) > max_rows:
        raise UserError(f"The table has {len(table):,} rows; {max_rows:,} are allowed.")
    columns = {"image": "image", "text": "text", "label": "label"}
    columns |= (predictor.model.config.columns or {}) | (chosen or {})
    names, wanted = table.column_names, {"image": [columns["image"]], "text": text_columns(columns["text"])}
    for setting, of in wanted.items():
        refuse_repeated(names, setting, of, source)
    require_columns(names, {setting: wanted[setting] for setting in chosen or {}}, source)
    has_image, has_text = (set(wanted[setting]) <= set(names) for setting in ("image", "text"))
    if not (has_image or has_text):
        raise AbsentColumnsError(
            f"{source} has neither the column of images, {columns['image']!r}, nor that of texts, {columns['text']!r}; "
            f"it has {enumerate_names(names)}."
        )
    if text is not None and has_text:
        raise UserError(f"{source} has texts of its own, in {columns['text']!r}: leave out --text.")

    def rows() -> Iterator[Pair]:
        for number, row in enumerate(table):
            image: str | bytes | UserError | None = None
            asked, cell = text, row[columns["image"]] if has_image else None
            try:
                stored = resolve_image(cell, image_root or folder, confined)
                image = stored.get("bytes") or stored.get("path") if isinstance(stored, dict) else stored
                asked = make_text(row, columns["text"]) if has_text else text
            except UserError as error:
                image = error
            name = cell.get("path") if isinstance(cell, dict) else cell
            yield Pair(number, name if isinstance(name, str) and name else None, image, asked)

    absent = {setting: [name for name in of if name not in names] for setting, of in wanted.items()}
    if text is not None:
        absent.pop("text")
    absent = {setting: missing for setting, missing in absent.items() if missing}
    return Pairs(rows(), len(table), absent, has_labels(table, columns["label"]))


def has_labels(table: Dataset, column: str) -> bool:
    """Whether any row has a label."""
    return column in table.column_names and any(not is_blank(row[column]) for row in table.select_columns([column]))
