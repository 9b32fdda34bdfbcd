"""Pairs of an image and a text from Python objects: tuples, dictionaries, a DataFrame or a Dataset."""

from collections.abc import Iterable, Iterator, Mapping

import pandas as pd
from datasets import Dataset, DatasetDict, Image, IterableDataset

from app.inference.python_inputs import ImageInput
from data.errors import UserError
from data.messages import enumerate_names, quote
from data.text_template import make_text, text_columns
from models.processor import is_missing

Table = pd.DataFrame | Dataset | IterableDataset
Pair = tuple[ImageInput, str | None]
"""An image and a text; ``None`` for a missing one."""


class AbsentColumnsError(UserError):
    """A table with neither the columns of images nor those of texts."""


def wanted_columns(columns: Mapping[str, str] | None) -> dict[str, list[str]]:
    """The columns that a model reads, by ``image`` and ``text``; a template of texts has several."""
    columns = columns or {}
    text = columns.get("text", "text")
    return {"image": [columns.get("image", "image")], "text": text_columns(text) if text else []}


def find_columns(columns: Mapping[str, str] | None, names: Iterable[str], source: str) -> tuple[str | None, str | None]:
    """The column of images and the text (a column or a template) in a table; ``None`` for one that the table lacks.

    Args:
        columns: the model's own, ``{"image": …, "text": …}``.
        names: columns of the table.
        source: what the table is called in messages.

    Raises:
        AbsentColumnsError: the table has neither.
    """
    columns, names = columns or {}, list(names)
    image, text = columns.get("image", "image"), columns.get("text", "text")
    has_image, has_text = (set(wanted) <= set(names) for wanted in wanted_columns(columns).values())
    has_text = has_text and bool(text)
    if not (has_image or has_text):
        raise AbsentColumnsError(
            f"{source} has neither the column of images, {image!r}, nor that of texts, {text!r}; "
            f"it has {enumerate_names(names)}."
        )
    return image if has_image else None, text if has_text else None


def read_pairs(pairs: Iterable, columns: Mapping[str, str] | None) -> Iterator[Pair]:
    """Pairs of an image and a text, one at a time.

    Args:
        pairs: pairs; rows as dictionaries; or a `pandas.DataFrame` or `datasets.Dataset`.
        columns: columns of image and text, see `find_columns`.

    Raises:
        UserError: another type, or a table or row without the columns.
    """
    if isinstance(pairs, DatasetDict):
        raise UserError(f"A DatasetDict holds splits; give one of them, {', '.join(map(repr, pairs))}.")
    if isinstance(pairs, pd.DataFrame):
        pairs = frame_rows(pairs, columns)
    elif isinstance(pairs, Dataset | IterableDataset):
        pairs = dataset_rows(pairs, columns)
    elif isinstance(pairs, str | bytes | Mapping) or not isinstance(pairs, Iterable):
        raise UserError(
            "Expected pairs [(image, text), …], rows [{…}, …], a pandas.DataFrame or a datasets.Dataset; got "
            f"{type(pairs).__name__}."
        )
    for item in pairs:
        if isinstance(item, Mapping):
            yield row_pair(item, *find_columns(columns, item, "The row"))
        elif isinstance(item, tuple | list) and len(item) == 2:
            yield item[0], item[1]
        else:
            raise UserError(
                f"A pair is (image, text), with None for a missing one; got {type(item).__name__}: {quote(item)}."
            )


def is_table(value: object) -> bool:
    """Whether a value holds rows rather than one image."""
    return isinstance(value, Table | DatasetDict)


def frame_rows(frame: pd.DataFrame, columns: Mapping[str, str] | None) -> Iterator[dict]:
    """The rows of a frame, with the columns that are read."""
    names = used_columns(columns, frame.columns, "The DataFrame")
    if repeated := [name for name in names if list(frame.columns).count(name) > 1]:
        raise UserError(f"The DataFrame has more than one column {quote(repeated[0])}.")
    for row in frame[names].itertuples(index=False, name=None):
        yield dict(zip(names, row, strict=True))


def dataset_rows(dataset: Dataset | IterableDataset, columns: Mapping[str, str] | None) -> Iterator[dict]:
    """The rows of a data set, with the columns that are read; images stay encoded."""
    if isinstance(dataset, IterableDataset) or dataset.format["type"] != "custom":  # keep a transform of the user
        dataset = dataset.with_format(None)
    if dataset.features is None:
        yield from dataset
        return
    names = used_columns(columns, dataset.features, "The Dataset")
    dataset = dataset.select_columns(names)
    for name in names:
        if isinstance(dataset.features[name], Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    yield from dataset


def used_columns(columns: Mapping[str, str] | None, names: Iterable[str], source: str) -> list[str]:
    """The columns of a table that hold the image and the parts of the text."""
    image, text = find_columns(columns, names, source)
    return list(dict.fromkeys([*([image] if image else []), *(text_columns(text) if text else [])]))


def row_pair(row: Mapping, image: str | None, text: str | None) -> Pair:
    """The image and the text of a row, from these columns."""
    cells = {name: None if is_missing(row[name]) else row[name] for name in (text_columns(text) if text else [])}
    return row[image] if image else None, make_text(cells, text) if text else None
