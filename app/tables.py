"""Many pairs at once: a table, a folder of images or a zip archive in, a table of answers out, faults row by row."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from lzma import LZMAError
from pathlib import Path

import pandas as pd

from app.predictor import Predictor
from data import Example
from data.cells import make_text, resolve_image, text_columns
from data.column_names import refuse_repeated
from data.images import IMAGE_ENDINGS
from data.messages import enumerate_names, quote
from data.sources import READERS, load_source

MAX_FILES = 10_000
"""Files that an archive may hold."""
MAX_UNPACKED = 2 << 30
"""Bytes that an archive may unpack to."""

Pair = tuple[str, str | bytes | ValueError | None, str | None]
"""How a row is called, its image or what is wrong with it, and its text."""


def answer_table(
    predictor: Predictor,
    source: str | Path,
    text: str | None = None,
    image_root: str | Path | None = None,
    batch_size: int = 32,
    told: Callable[[int], object] | None = None,
    max_rows: int | None = None,
    cache_dir: str | Path | None = None,
    confined: bool = True,
) -> pd.DataFrame:
    """Answer every row of a source.

    Args:
        source: a table with the columns the model was trained on (one of image and text may be missing), any other
            source of `data.sources.load_source`, or a folder of images.
        text: asked about every image of a folder.
        image_root: folder that image paths are relative to; the table's where not given.
        told: called with the number of rows that are done.
        max_rows: a source with more is refused.
        cache_dir: where `datasets` keeps what it read; its own place where not given.
        confined: refuse image paths that lead out of that folder, by .. or by links, as a stranger's table might name;
            the owner of a table may switch it off.

    Returns:
        ``row`` (its number, or the name of the file), ``text``, ``prediction``, ``probability`` (of the whole
        prediction), ``sure`` and ``error``; of a row that cannot be answered only the first two and ``error``.

    Raises:
        ValueError: a source that cannot be read, without the columns, or with too many rows.
    """
    path, form = Path(source), predictor.label_format
    root = Path(image_root) if image_root else None
    is_folder = path.is_dir() and not any(path.glob("metadata.*")) and not (path / "state.json").exists()
    pairs = (
        folder_pairs(path, text)
        if is_folder
        else table_pairs(str(source), predictor, root, cache_dir, max_rows, confined)
    )
    found: list[dict] = []
    while block := list(islice(pairs, batch_size)):
        rows: list[dict[str, object]] = [{"row": name, "text": asked} for name, _, asked in block]
        prepared = predictor.prepare((image, asked) for _, image, asked in block)
        examples = [example for example in prepared if isinstance(example, Example)]
        answers = iter(predictor.describe(predictor.probabilities(examples), 1) if examples else [])
        for row, example in zip(rows, prepared, strict=True):
            if isinstance(example, ValueError):
                row["error"] = str(example)
                continue
            answer = next(answers)
            row |= {"prediction": form.join(answer.labels), "probability": answer.confidence, "sure": answer.is_sure}
        found += rows
        if told is not None:
            told(len(found))
    return pd.DataFrame(found, columns=["row", "text", "prediction", "probability", "sure", "error"])


def folder_pairs(folder: Path, text: str | None) -> Iterator[Pair]:
    """Every image of a folder and those below it, those that are links included, with one text for all."""
    files = sorted(file for file in files_below(folder) if file.suffix.lower() in IMAGE_ENDINGS)
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(IMAGE_ENDINGS)}).")
    return ((str(file.relative_to(folder)), str(file), text) for file in files)


def files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder and those below it, of each folder once however many links lead to it."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(parent, name)) not in seen]
        yield from (Path(parent, name) for name in names)


def table_pairs(
    source: str,
    predictor: Predictor,
    image_root: Path | None,
    cache_dir: str | Path | None = None,
    max_rows: int | None = None,
    confined: bool = True,
) -> Iterator[Pair]:
    """The rows of a table; an image that cannot be used, as `answer_table` says, is a fault of its row."""
    table, folder = load_source(source, "test", cache_dir=cache_dir)
    if max_rows is not None and len(table) > max_rows:
        raise ValueError(f"The table has {len(table):,} rows; {max_rows:,} are allowed.")
    columns = {"image": "image", "text": "text"} | (predictor.model.config.columns or {})
    names = table.column_names
    refuse_repeated(names, "image", [columns["image"]], source)
    refuse_repeated(names, "text", text_columns(columns["text"]), source)
    has_image, has_text = columns["image"] in names, set(text_columns(columns["text"])) <= set(names)
    if not (has_image or has_text):
        raise ValueError(
            f"{source} has neither the column of images, {columns['image']!r}, nor that of texts, {columns['text']!r}; "
            f"it has {enumerate_names(names)}."
        )
    for number, row in enumerate(table):
        image: str | bytes | ValueError | None = None
        try:
            stored = resolve_image(row[columns["image"]], image_root or folder, confined) if has_image else None
            image = stored.get("bytes") or stored.get("path") if isinstance(stored, dict) else stored
        except ValueError as error:
            image = error
        yield str(number), image, make_text(row, columns["text"]) if has_text else None


@contextmanager
def unpacked(archive: str | Path, max_files: int = MAX_FILES, max_bytes: int = MAX_UNPACKED) -> Iterator[Path]:
    """The one table of a zip archive, unpacked beside its images into a folder that goes again.

    Raises:
        ValueError: no zip archive, too many or too large files, names that lead out of it, or not exactly one table.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, left = Path(folder).resolve(), max_bytes
        try:
            with zipfile.ZipFile(archive) as opened:
                members = [member for member in opened.infolist() if not member.is_dir()]
                if len(members) > max_files:
                    raise ValueError(f"The archive holds {len(members):,} files; {max_files:,} are allowed.")
                for member in members:
                    target = (root / member.filename).resolve()
                    if not target.is_relative_to(root):
                        raise ValueError(f"The archive names a file outside itself: {quote(member.filename)}.")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    left -= copy_bounded(opened, member, target, left)
        except (
            zipfile.BadZipFile,
            RuntimeError,
            NotImplementedError,
            OSError,
            EOFError,
            zlib.error,
            LZMAError,
        ) as error:
            raise ValueError(f"The archive cannot be unpacked: {error}") from error
        tables = [file for file in sorted(root.rglob("*")) if file.suffix.lower() in READERS and file.is_file()]
        if len(tables) != 1:
            raise ValueError(
                f"An archive holds exactly one table ({', '.join(READERS)}) and images; found {len(tables)}."
            )
        yield tables[0]


def copy_bounded(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, most: int) -> int:
    """Unpack one file, whatever size its header claims; returns its size."""
    with opened.open(member) as source, target.open("wb") as file:
        while piece := source.read(1 << 20):
            if file.tell() + len(piece) > most:
                raise ValueError("The archive unpacks to more than is allowed.")
            file.write(piece)
        return file.tell()
