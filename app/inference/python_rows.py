"""Pairs of an image and a text, with further contexts, from Python: tuples, dictionaries, a DataFrame or a Dataset."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from app.inference.python_contexts import contexts_by_name, contexts_of_row
from app.inference.python_inputs import ImageInput
from data.contexts import ContextCell, context_columns
from data.errors import UserError
from data.messages import enumerate_names, quote
from data.settings import NamedContext
from data.text_template import make_text, text_columns
from models.processor import is_missing

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset, DatasetDict, IterableDataset

Table: TypeAlias = "pd.DataFrame | Dataset | IterableDataset"
Pair = tuple[ImageInput, str | None] | tuple[ImageInput, str | None, Mapping]
"""An image and a text, ``None`` for a missing one, and the further contexts of a model that has some, by name."""


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


def read_pairs(
    pairs: Iterable, columns: Mapping[str, str] | None, contexts: Sequence[NamedContext] = ()
) -> Iterator[tuple[ImageInput, str | None, dict[str, ContextCell | None]]]:
    """Images, texts and further contexts, one pair at a time.

    Args:
        pairs: pairs; rows as dictionaries; or a `pandas.DataFrame` or `datasets.Dataset`.
        columns: columns of image and text, see `find_columns`.
        contexts: the further contexts of the model.

    Raises:
        UserError: another type, a table or row without the columns, or a context that cannot be read.
    """
    if is_dict_of_splits(pairs):
        raise UserError(f"A DatasetDict holds splits; give one of them, {', '.join(map(repr, pairs))}.")
    if is_frame(pairs):
        pairs = frame_rows(pairs, columns, contexts)
    elif is_dataset(pairs):
        pairs = dataset_rows(pairs, columns, contexts)
    elif isinstance(pairs, str | bytes | Mapping) or not isinstance(pairs, Iterable):
        raise UserError(
            "Expected pairs [(image, text), …], rows [{…}, …], a pandas.DataFrame or a datasets.Dataset; got "
            f"{type(pairs).__name__}."
        )
    for item in pairs:
        if isinstance(item, Mapping):
            yield *row_pair(item, *find_columns(columns, item, "The row")), contexts_of_row(item, contexts)
        elif isinstance(item, tuple | list) and len(item) == 2:
            yield item[0], item[1], contexts_by_name(None, contexts)
        elif isinstance(item, tuple | list) and len(item) == 3 and isinstance(item[2], Mapping | None):
            yield item[0], item[1], contexts_by_name(item[2], contexts)
        else:
            raise UserError(
                f"A pair is (image, text), with None for a missing one; got {type(item).__name__}: {quote(item)}."
            )


def is_table(value: object) -> bool:
    """Whether a value holds rows rather than one image."""
    return is_frame(value) or is_dataset(value) or is_dict_of_splits(value)


def is_frame(value: object) -> TypeGuard[pd.DataFrame]:
    """Whether a value is a `pandas.DataFrame`."""
    return is_of_loaded(value, "pandas", "DataFrame")


def is_dataset(value: object) -> TypeGuard[Dataset | IterableDataset]:
    """Whether a value is a table of `datasets`."""
    return is_of_loaded(value, "datasets", "Dataset") or is_of_loaded(value, "datasets", "IterableDataset")


def is_dict_of_splits(value: object) -> TypeGuard[DatasetDict]:
    """Whether a value is a `datasets.DatasetDict`."""
    return is_of_loaded(value, "datasets", "DatasetDict")


def is_of_loaded(value: object, package: str, name: str) -> bool:
    """Whether a value is of a class of a package that is slow to import: who has such a value has imported it."""
    return isinstance(value, getattr(sys.modules.get(package), name, ()))


def frame_rows(
    frame: pd.DataFrame, columns: Mapping[str, str] | None, contexts: Sequence[NamedContext]
) -> Iterator[dict]:
    """The rows of a frame, with the columns that are read."""
    names = used_columns(columns, contexts, frame.columns, "The DataFrame")
    if repeated := [name for name in names if list(frame.columns).count(name) > 1]:
        raise UserError(f"The DataFrame has more than one column {quote(repeated[0])}.")
    for row in frame[names].itertuples(index=False, name=None):
        yield dict(zip(names, row, strict=True))


def dataset_rows(
    dataset: Dataset | IterableDataset, columns: Mapping[str, str] | None, contexts: Sequence[NamedContext]
) -> Iterator[dict]:
    """The rows of a data set, with the columns that are read, see `data.sources.keep_encoded`."""
    from datasets import IterableDataset  # loaded already, with the data set

    from data.sources import keep_encoded

    if isinstance(dataset, IterableDataset) or dataset.format["type"] != "custom":  # keep a transform of the user
        dataset = dataset.with_format(None)
    if dataset.features is None:
        yield from dataset
        return
    names = used_columns(columns, contexts, dataset.features, "The Dataset")
    yield from keep_encoded(dataset.select_columns(names))


def used_columns(
    columns: Mapping[str, str] | None, contexts: Sequence[NamedContext], names: Iterable[str], source: str
) -> list[str]:
    """The columns of a table that hold the image, the parts of the text and further contexts."""
    image, text = find_columns(columns, names, source)
    further = [name for name in context_columns(contexts) if name in names]
    return list(dict.fromkeys([*([image] if image else []), *(text_columns(text) if text else []), *further]))


def row_pair(row: Mapping, image: str | None, text: str | None) -> tuple[ImageInput, str | None]:
    """The image and the text of a row, from these columns."""
    cells = {name: None if is_missing(row[name]) else row[name] for name in (text_columns(text) if text else [])}
    return row[image] if image else None, make_text(cells, text) if text else None
