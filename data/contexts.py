"""Contexts beside the text: how their cells are read, and what the training rows fix about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.audio import resolve_sound, sound_bytes, sound_seconds
from data.cells import is_blank
from data.errors import UserError
from data.image_cells import resolve_image
from data.images import content_key, read_image
from data.messages import quote
from data.settings import NamedContext
from data.text_template import make_text, text_columns

Scalar = float | str | None
Features = np.ndarray | tuple[Scalar, ...]
"""Vectors ``(L, width)`` float32, or the cells of several columns: numbers, categories, ``None`` for an empty cell."""
SAME = 1e-8
"""Values that differ by less than this share of their mean are one value, which is not divided by its spread."""
VECTOR_FILE = ".npy"
"""Ending of a cell that names a file of vectors."""
MAX_VECTORS = 4096
"""Longest sequence of vectors."""
MAX_CATEGORIES = 1000
"""A column with more different words is not one of categories."""


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


@dataclass(frozen=True)
class ColumnSpec:
    """A column of numbers, with their mean and standard deviation, or of categories.

    Attributes:
        categories: the categories of the training rows, sorted; ``None`` for numbers.
    """

    name: str
    mean: float = 0.0
    std: float = 1.0
    categories: list[str] | None = None

    @property
    def known(self) -> str:
        """The first categories, for messages."""
        categories = self.categories or []
        return ", ".join(categories[:10]) + (" …" if len(categories) > 10 else "")

    def unknown(self, cells: Iterable[Scalar]) -> list[str]:
        """The category of each cell that has one which no training row has; empty for a column of numbers."""
        if self.categories is None:
            return []
        found = (category_of(cell) for cell in cells if cell is not None)
        return [category for category in found if category not in self.categories]


def fit_features(context: NamedContext, cells: Sequence[ContextCell | None]) -> dict[str, Any]:
    """What the training rows fix about features, as an entry of the model's ``contexts``.

    Vectors are standardized by dimension, numbers by column.

    Raises:
        UserError: rows that do not fit each other, or no row with features; the message names the context.
    """
    values = [cell.value for cell in cells if cell is not None]
    if not values:
        raise UserError(f"No training row has the context {context.name}.")
    if len({isinstance(value, np.ndarray) for value in values}) > 1:
        raise UserError(
            f"Some training rows have vectors for the context {context.name}, others numbers or categories."
        )
    about: dict[str, Any] = {"name": context.name, "columns": list(context.columns)}
    if isinstance(values[0], np.ndarray):
        widths = sorted({value.shape[1] for value in values})
        if len(widths) > 1:
            raise UserError(
                f"The vectors of the context {context.name} differ in width: {', '.join(map(str, widths))}."
            )
        rows = np.concatenate(values).astype(np.float64)
        mean, std = rows.mean(axis=0), rows.std(axis=0)
        std[std <= SAME * np.maximum(1.0, np.abs(mean))] = 1.0
        return about | {"kind": "vectors", "width": widths[0], "mean": mean.tolist(), "std": std.tolist()}
    by_column = zip(context.columns, zip(*values, strict=True), strict=True)
    inputs = [fit_column(name, [cell for cell in column if cell is not None], context) for name, column in by_column]
    return about | {"kind": "columns", "inputs": [vars(column) for column in inputs]}


def fit_column(name: str, cells: list[float | str], context: NamedContext) -> ColumnSpec:
    """A column of numbers if all its cells are numbers, also as text; otherwise one of categories."""
    if not cells:
        raise UserError(f"The column {name} of the context {context.name} is empty in all training rows.")
    numbers = [number_of(cell) for cell in cells]
    if all(number is not None for number in numbers):
        values = np.array(numbers, dtype=np.float64)
        mean, std = float(values.mean()), float(values.std())
        return ColumnSpec(name, mean, std if std > SAME * max(1.0, abs(mean)) else 1.0)
    categories = sorted({category_of(cell) for cell in cells})
    if len(categories) > MAX_CATEGORIES:
        raise UserError(
            f"The column {name} of the context {context.name} has {len(categories):,} different words; categories are "
            f"at most {MAX_CATEGORIES:,}. A text is a context of the kind text."
        )
    return ColumnSpec(name, categories=categories)


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


def encode_features(spec: Mapping[str, Any], value: Features) -> tuple[np.ndarray, np.ndarray]:
    """Features as the model takes them: values ``(L, width)`` or ``(columns,)`` float32, and their mask.

    A category that no training row has is encoded as an empty cell.

    Raises:
        UserError: vectors of another width or in place of columns, or a word in a column of numbers.
    """
    if spec["kind"] == "vectors":
        if not isinstance(value, np.ndarray):
            raise UserError(f"{quote(value)} in place of a vector of width {spec['width']}")
        if value.shape[1] != spec["width"]:
            raise UserError(f"vectors of width {value.shape[1]}; the model was trained on width {spec['width']}")
        return ((value - spec["mean"]) / spec["std"]).astype(np.float32), np.ones(len(value), dtype=bool)
    if isinstance(value, np.ndarray):
        raise UserError("a vector in place of numbers and categories")
    encoded = [encode_scalar(cell, column) for cell, column in zip(value, columns_of(spec), strict=True)]
    return np.array([one or 0 for one in encoded], dtype=np.float32), np.array([one is not None for one in encoded])


def columns_of(spec: Mapping[str, Any]) -> list[ColumnSpec]:
    """The columns of numbers and categories; empty for vectors."""
    return [ColumnSpec(**column) for column in spec.get("inputs", ())]


def encode_scalar(cell: Scalar, column: ColumnSpec) -> float | None:
    """A standardized number, or the index of a category; ``None`` for an empty cell and an unknown category."""
    if cell is None or column.unknown([cell]):
        return None
    if column.categories is None:
        number = number_of(cell)
        if number is None:
            raise UserError(f"{quote(cell)} in the column {column.name}, which holds numbers")
        return (number - column.mean) / column.std
    return float(column.categories.index(category_of(cell)))


def refuse_unknown(spec: Mapping[str, Any], value: Features) -> None:
    """Refuse an unknown category in features that `encode_features` accepts.

    Raises:
        UserError: names the column and the categories of the training rows.
    """
    for column, cell in zip(columns_of(spec), value, strict=False):
        if unknown := column.unknown([cell]):
            raise UserError(
                f"{quote(unknown[0])} in the column {column.name}, a category that no training row has; they have "
                f"{column.known}"
            )


def collate_features(spec: Mapping[str, Any], values: Sequence[Features], rows: Sequence[int]) -> dict[str, Tensor]:
    """Tensors of K different features: ``values`` and ``mask``, as `models.contexts` takes them.

    Args:
        rows: a row that has each value, for messages.

    Raises:
        UserError: features that differ from those of the training; names the row.
    """
    encoded = []
    for value, row in zip(values, rows, strict=True):
        try:
            encoded.append(encode_features(spec, value))
        except UserError as error:
            raise UserError(f"The context {spec['name']} of row {row} has {error}.") from error
    found = {
        "values": [torch.from_numpy(one) for one, _ in encoded],
        "mask": [torch.from_numpy(mask) for _, mask in encoded],
    }
    return {name: pad_sequence(parts, batch_first=True) for name, parts in found.items()}


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
