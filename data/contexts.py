"""Contexts beside the text: how their cells are read and shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from data.audio import resolve_sound, sound_bytes, sound_seconds
from data.cells import is_blank
from data.errors import UserError
from data.hashing import content_key
from data.image_cells import resolve_image
from data.image_files import read_image
from data.messages import quote
from data.settings import NamedContext
from data.text_template import make_text, text_columns

Scalar = float | str | None
Features = np.ndarray | tuple[Scalar, ...]
"""Vectors ``(L, width)`` float32, or the cells of several columns: numbers, categories, ``None`` for an empty cell."""
VECTOR_FILE = ".npy"
"""Ending of a cell that names a file of vectors."""
MAX_VECTORS = 4096
"""Longest sequence of vectors."""


@dataclass(frozen=True)
class ContextCell:
    """What a row has for a context.

    Attributes:
        value: a picture (a `data.image_cells.StoredImage` or decoded), a `data.audio.StoredSound`, `Features`, or a
            text.
        key: equal for equal values; of a file, before it is read, its path.
    """

    value: Any
    key: str


def read_cell(row: Mapping[str, Any], context: NamedContext, root: Path | None, confined: bool) -> ContextCell | None:
    """The value of a row for a context; ``None`` if it is missing.

    Args:
        root: folder of relative paths.
        confined: only accept paths inside ``root``.

    Raises:
        UserError: a cell that cannot be read; the message does not name the row.
    """
    if context.kind == "text":
        text = make_text(row, context.columns[0])
        return None if text is None else ContextCell(text, text)
    if context.kind == "features":
        return read_features([row[name] for name in context.columns], context, root, confined)
    if context.kind == "audio":
        sound = resolve_sound(row[context.columns[0]], root, confined)
        if sound is None:
            return None
        return ContextCell(sound, sound if isinstance(sound, str) else content_key(sound_bytes(sound)))
    stored = resolve_image(row[context.columns[0]], root, confined)
    if stored is None:
        return None
    return ContextCell(stored, stored if isinstance(stored, str) else content_key(read_image(stored)))


def read_features(cells: Sequence, context: NamedContext, root: Path | None, confined: bool) -> ContextCell | None:
    """Features from the cells of their columns."""
    values = [read_feature(cell, root, confined) for cell in cells]
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if not arrays:
        scalars = tuple(value for value in values if not isinstance(value, np.ndarray))
        return None if all(value is None for value in scalars) else ContextCell(scalars, repr(scalars))
    if len(values) > 1:
        raise UserError(
            f"vectors in one of the columns {', '.join(context.columns)}: a context has one column of vectors, or "
            "columns of numbers and categories"
        )
    return ContextCell(arrays[0], content_key(arrays[0].tobytes()))


def read_feature(cell, root: Path | None, confined: bool) -> Scalar | np.ndarray:
    """A number, a category, or vectors ``(L, width)`` from a list or a ``.npy`` file; ``None`` for an empty cell.

    Raises:
        UserError: another type, a file that cannot be read, too many vectors, or values that are not finite.
    """
    if is_blank(cell) or (isinstance(cell, float) and np.isnan(cell)):
        return None
    if isinstance(cell, bool | np.bool_):
        return str(bool(cell))
    if isinstance(cell, int | float | np.number | Decimal):
        number = to_single(cell)
        if number is None:
            raise UserError(f"the number {quote(cell)}, which is not finite in single precision")
        return number
    if isinstance(cell, str) and not cell.lower().endswith(VECTOR_FILE):
        return cell.strip()
    if isinstance(cell, str):
        array = load_array(cell, root, confined)
    else:
        try:
            array = np.asarray(cell, dtype=np.float32)
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{quote(cell)}, which is no number, category, vector or sequence of vectors") from error
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise UserError(f"an array of shape {array.shape}; vectors are (width,), sequences of them (length, width)")
    if array.ndim == 2 and len(array) > MAX_VECTORS:
        raise UserError(f"a sequence of {len(array):,} vectors; at most {MAX_VECTORS:,} are read")
    if not np.isfinite(array).all():
        raise UserError("a vector with NaN or infinite values")
    return np.ascontiguousarray(np.atleast_2d(array).astype(np.float32))


def to_single(cell: float | np.number | Decimal) -> float | None:
    """A number; ``None`` for one that is not finite in single precision."""
    try:
        value = float(cell)
    except OverflowError:
        return None
    return value if abs(value) <= float(np.finfo(np.float32).max) else None


def load_array(path: str, root: Path | None, confined: bool) -> np.ndarray:
    """An array of numbers from a ``.npy`` file; pickles are refused."""
    file = resolve_image(path, root, confined)
    assert isinstance(file, str)
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{quote(path)}, which cannot be read as a .npy file of numbers: {error}") from error
    if array.dtype.kind not in "iufb":
        raise UserError(f"{quote(path)}, whose values are of the type {array.dtype}, not numbers")
    return array


def number_of(cell: float | str) -> float | None:
    """The number of a cell, also one that a text holds; ``None`` for other texts."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return to_single(value)


def category_of(cell: float | str) -> str:
    """The category of a cell; 2.0 is the category 2."""
    if not isinstance(cell, str):
        return str(int(cell)) if cell.is_integer() else repr(cell)
    return cell


def show_cell(spec: Mapping[str, Any], cell: ContextCell) -> str | Any:
    """A value for people: a decoded picture or its file as it is, anything else in words."""
    if spec["kind"] in ("image", "text"):
        return cell.value
    if spec["kind"] == "audio":
        return f"{sound_seconds(cell.value):.1f} s of sound"
    if spec["kind"] == "vectors":
        return f"{len(cell.value)} × {spec['width']} numbers"
    parts = zip(spec["columns"], cell.value, strict=True)
    return ", ".join(f"{name} {category_of(value)}" for name, value in parts if value is not None)


def unique(cells: Sequence[ContextCell | None]) -> tuple[list[ContextCell], list[int]]:
    """The different cells, and the index of each row's cell among them, -1 for a missing one."""
    places: dict[str, int] = {}
    found: list[ContextCell] = []
    index = []
    for cell in cells:
        if cell is None:
            index.append(-1)
            continue
        if cell.key not in places:
            places[cell.key] = len(found)
            found.append(cell)
        index.append(places[cell.key])
    return found, index


def file_columns(contexts: Sequence[NamedContext]) -> dict[str, str]:
    """The columns that can name files → the ending of these files; images and sounds have any."""
    endings = {"image": "", "audio": "", "features": VECTOR_FILE}
    return {name: endings[context.kind] for context in contexts if context.kind in endings for name in context.columns}


def context_columns(contexts: Sequence[NamedContext]) -> Iterator[str]:
    """The columns of the table that contexts are read from."""
    for context in contexts:
        yield from text_columns(context.columns[0]) if context.kind == "text" else context.columns
