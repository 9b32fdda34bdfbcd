"""What a cell of a table says: a text, a label, a number, an image, or nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from data.errors import UserError
from data.images import MAX_PATH, BadImageError, explain_path, is_address
from data.label_format import LabelFormat
from data.labels import normalize_label
from data.messages import quote

StoredImage = str | dict | None
"""Path of an image file, the ``{"bytes", "path"}`` of `datasets`, or ``None`` for no image."""


FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
"""What stands for something else in a template: a doubled brace, a column's name in braces, or a brace too many."""


def text_columns(text: str) -> list[str]:
    """Columns that a text setting names: itself, or the fields of a template.

    Raises:
        UserError: a template with braces that do not match, or without a column.
    """
    if "{" not in text:
        return [text]
    names = [name for _, name in parse_template(text) if name]
    if not names:
        raise UserError(
            f"data.text names no column: {quote(text)}; write columns in braces, '{{question}} {{report}}'."
        )
    return list(dict.fromkeys(names))


@lru_cache
def parse_template(text: str) -> tuple[tuple[str, str], ...]:
    """A template as pairs (literal text, name of the column after it, which is empty at the end).

    Whatever stands in braces is the name: dots, brackets, colons and exclamation marks have no meaning of their own.
    """
    pieces, literal, end = [], "", 0
    for match in FIELD.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        if match[0] in ("{{", "}}"):
            literal += match[0][0]
        elif match[1]:
            pieces.append((literal, match[1]))
            literal = ""
        else:
            fault = "braces without a column" if match[0] == "{}" else f"a single {match[0]!r}"
            raise UserError(
                f"data.text is not a valid template, it has {fault}: {quote(text)}. Write a column as {{column}}, and "
                "a brace that is part of the text twice."
            )
    return (*pieces, (literal + text[end:], ""))


def make_text(row: Mapping, text: str) -> str | None:
    """The text of a row; ``None`` where all the columns it is made of are empty."""
    values = {name: cell_text(row[name]) or "" for name in text_columns(text)}
    if not any(value.strip() for value in values.values()):
        return None
    if "{" not in text:
        return values[text].strip()
    return "".join(literal + values.get(name, "") for literal, name in parse_template(text)).strip()


def make_label(value, names: list[str] | None, normalize: bool, form: LabelFormat) -> str | None:
    """A label as one string, see `make_name`; ``None`` where there is none.

    A row of none of the classes has the label ``""``, from an empty list or the separator alone.
    """
    if form.type == "single":
        return make_name(value, names, normalize)
    if isinstance(value, str):
        values = value.split(form.separator) if value.strip() else None
    else:
        values = list(value) if isinstance(value, list | tuple | np.ndarray) else value if value is None else [value]
    if values is None:
        return None
    found = [make_name(part, names, normalize) for part in values]
    if torn := [name for name in found if name and form.separator in name]:
        raise UserError(
            f"The label {quote(torn[0])} holds the separator {form.separator!r}; rename it, or train with another "
            "--data.label_separator."
        )
    if form.type == "annotators" and not any(found):
        return None
    return form.join(name for name in found if name)


def make_name(value, names: list[str] | None, normalize: bool) -> str | None:
    """The name of a class; ``None`` where it is null, empty, or the -1 that `datasets` takes for "no label".

    Raises:
        UserError: a list, an object or bytes.
    """
    if names is not None and value is not None:
        value = names[value] if value >= 0 else None
    if is_nested(value):
        raise UserError(
            f"Labels must be strings, numbers or booleans, got {quote(value)}; write the names of the classes. For "
            "lists of names train with --data.label_type multi or annotators."
        )
    label = cell_text(value) or ""
    return (normalize_label(label) if normalize else label.strip()) or None


def cell_text(cell) -> str | None:
    """A cell as text, the one reading for every kind of table; ``None`` where it is missing or not a number.

    A text is what is written. Numbers, booleans and dates, of JSON and Parquet, are as Python writes them: 7, 0.5,
    100000.0, True, 2020-01-31.

    Raises:
        UserError: a list, an object or bytes.
    """
    if isinstance(cell, str):
        return cell
    if is_nested(cell):
        raise UserError(f"A cell holds {quote(cell)}; expected a text, a number or a boolean.")
    return None if pd.isna(cell) else str(cell)


def is_nested(cell) -> bool:
    """Whether a cell holds several values, or bytes."""
    return isinstance(cell, list | tuple | dict | set | bytes | np.ndarray)


def is_blank(cell) -> bool:
    """Whether a cell of a table holds nothing: no value, or of a CSV no characters but spaces."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def as_number(value) -> float:
    """A cell as a number, which in a CSV is written out; NaN where it is none."""
    try:
        return float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def is_clean(text: str) -> bool:
    """Whether a text is one that a tokenizer and UTF-8 take: without NUL and without half a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def resolve_image(image, root: Path | None, confined: bool = False) -> StoredImage:
    """An image as found in a table: its path made absolute, its bytes as `datasets` stores them.

    Bytes may be of any kind, or a list of numbers, as some tools write them.

    Raises:
        BadImageError: neither a path nor an image, or with ``confined`` a path that leads out of the root.
    """
    if is_blank(image) or (isinstance(image, float) and np.isnan(image)):  # which pandas writes for no value
        return None
    if isinstance(image, list):
        image = as_bytes(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return {"bytes": bytes(image), "path": None} if len(image) else None
    if isinstance(image, dict) and image.keys() & {"bytes", "path"}:
        data, path = image.get("bytes"), image.get("path")
        if not isinstance(data, bytes | None):
            raise BadImageError("An image as datasets stores them has bytes in “bytes”; here they are something else.")
        if data is not None:
            return {"bytes": data, "path": path if isinstance(path, str) else None}
        if is_blank(path):
            return None
        image = path
    if not isinstance(image, str):
        raise BadImageError(
            f"The image column holds {quote(image)}; expected the path of a file, its bytes, or an image as datasets "
            "stores them."
        )
    return resolve_path(image, root or Path(), confined)


def as_bytes(numbers: list) -> bytes:
    try:
        return bytes(numbers)
    except (TypeError, ValueError) as error:
        raise BadImageError(
            f"The image column holds {quote(numbers)}; a list must be the bytes of an image file, numbers of 0 to 255."
        ) from error


def resolve_path(path: str, root: Path, confined: bool) -> str:
    """Where a file is; of what is not there as written also with / for \\, or with ~ for the user's folder."""
    folder = root.absolute()
    if len(path) > MAX_PATH or ((is_address(path) or not is_clean(path)) and not os.path.exists(folder / path)):
        raise BadImageError(f"{quote(path)} is not the path of a file: {explain_path(path)}")
    spellings = [path]
    if "\\" in path and os.sep == "/":
        spellings.append(path.replace("\\", "/"))
    if path.startswith("~") and not confined:
        spellings.append(os.path.expanduser(path))
    places = [os.path.join(folder, spelling) for spelling in spellings]
    found = next(filter(os.path.exists, places), places[0])
    if not confined:
        return found
    found = os.path.realpath(found)
    if not Path(found).is_relative_to(os.path.realpath(folder)):
        raise BadImageError(
            f"The image path {quote(path)} leads out of the folder of the images, which this table may not "
            "(--data.image_root FOLDER names another folder, --data.confine_images false trusts the table)"
        )
    return found
