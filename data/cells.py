"""What a cell of a table says: a text, a label, a number, an image, or nothing."""

from __future__ import annotations

import string
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from data.labels import normalize_label
from data.targets import LabelFormat

StoredImage = str | dict | None
"""Path of an image file, the ``{"bytes", "path"}`` of `datasets`, or ``None`` for no image."""


def text_columns(text: str) -> list[str]:
    """Columns that a text setting names: itself, or the fields of a template."""
    if "{" not in text:
        return [text]
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name]
    except ValueError as error:
        raise ValueError(f"data.text is not a valid template, {error}: {text!r}.") from error
    if not names:
        raise ValueError(f"data.text names no column: {text!r}; write columns in braces, '{{question}} {{report}}'.")
    return list(dict.fromkeys(names))


def make_text(row: Mapping, text: str) -> str | None:
    """The text of a row; ``None`` where all the columns it is made of are empty."""
    values = {name: "" if row[name] is None else str(row[name]) for name in text_columns(text)}
    if not any(value.strip() for value in values.values()):
        return None
    return (text.format_map(values) if "{" in text else values[text]).strip()


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
        raise ValueError(
            f"The label {torn[0]!r} holds the separator {form.separator!r}; rename it, or train with another "
            "--data.label_separator."
        )
    if form.type == "annotators" and not any(found):
        return None
    return form.join(name for name in found if name)


def make_name(value, names: list[str] | None, normalize: bool) -> str | None:
    """The name of a class; ``None`` where it is null, empty, or the -1 that `datasets` takes for "no label".

    Raises:
        ValueError: neither a string nor an integer.
    """
    if names is not None and value is not None:
        value = names[value] if value >= 0 else None
    if not (value is None or isinstance(value, str | int)) or isinstance(value, bool):
        raise ValueError(
            f"Labels must be strings or integers, got {value!r}; write the names of the classes. For lists of names "
            "train with --data.label_type multi or annotators."
        )
    label = "" if value is None else str(value)
    return (normalize_label(label) if normalize else label.strip()) or None


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


def resolve_image(image: str | dict | None, root: Path | None) -> StoredImage:
    """An image as found in a table, its path made absolute.

    Raises:
        ValueError: a path that leads out of the root.
    """
    if not (image is None or isinstance(image, str | dict)):
        raise ValueError(
            f"The image column holds {image!r}; expected the path of a file, or an image as datasets stores them."
        )
    path = image.get("path") if isinstance(image, dict) else image
    if isinstance(image, dict) and not isinstance(image.get("bytes"), bytes | None):
        raise ValueError("An image as datasets stores them has bytes in “bytes”; here they are something else.")
    if not path or (isinstance(image, dict) and image.get("bytes") is not None):
        return image or None
    return resolve_path(str(path), root or Path())


@lru_cache(maxsize=4096)
def resolve_path(path: str, root: Path) -> str:
    root = root.resolve()
    resolved = (root / path).resolve()
    if not resolved.is_relative_to(root):
        raise ValueError(
            f"The image path {path!r} leads out of {root}. Paths are relative to the table's folder; give the "
            "folder that holds all images with --data.image_root FOLDER."
        )
    return str(resolved)
