"""Features as contexts: what the training rows fix about numbers, categories and vectors, and their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.contexts import ContextCell, Features, Scalar, category_of, number_of
from data.errors import UserError
from data.messages import quote
from data.settings import NamedContext

SAME = 1e-8
"""Values that differ by less than this share of their mean are one value, which is not divided by its spread."""
MAX_CATEGORIES = 1000
"""A column with more different words is not one of categories."""


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
