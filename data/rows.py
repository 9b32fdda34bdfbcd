"""Rows in one form, (image, text, label), every fault named before training begins."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch.utils.data
from datasets import ClassLabel, Dataset, IterableDataset
from PIL import Image

from data.labels import normalize_label
from data.settings import DataSettings
from data.sources import explain_parser_errors, load_source, require_columns

SHOWN = 5
"""Faults of one kind that a message lists; it counts them all."""

StoredImage = str | dict | None
"""Path of an image file, the ``{"bytes", "path"}`` of `datasets`, or ``None`` for no image."""


@dataclass(frozen=True)
class Example:
    """One pair. ``row`` is its number in the source; equal images have equal ``image_key``."""

    row: int
    image: StoredImage | Image.Image
    text: str | None
    label: str
    image_key: str | None = None


@dataclass
class Rows(torch.utils.data.Dataset[Example]):
    """A table as a sequence of `Example`; images stay where they are until a batch asks for them.

    ``numbers`` are the rows of ``table`` this sequence consists of, in order; the other lists go with them. Where
    the table is a stream, rows come by iteration only, in the order of the stream.
    """

    source: str
    table: Dataset | IterableDataset
    image_column: str
    image_root: Path | None
    numbers: list[int]
    texts: list[str | None]
    labels: list[str]
    image_keys: list[str | None]

    @property
    def is_stream(self) -> bool:
        return isinstance(self.table, IterableDataset)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Example:
        return self.example(index, self.read_image(self.numbers[index]))

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """Several at once, as `DataLoader` asks for a batch: an image that rows share is read once."""
        first = {self.image_keys[i] or i: i for i in reversed(indices)}
        images = {i: self.read_image(self.numbers[i]) for i in first.values()}
        return [self.example(i, images[first[self.image_keys[i] or i]]) for i in indices]

    def __iter__(self) -> Iterator[Example]:
        for index, image in enumerate(self.images()):
            yield self.example(index, image)

    def images(self) -> Iterator[StoredImage]:
        """The image of each row in order, in one pass over the table."""
        table = self.table.select_columns([self.image_column])
        if isinstance(table, Dataset):
            rows: Iterable[dict] = table.select(self.numbers)
        else:
            chosen = set(self.numbers)
            rows = (row for number, row in enumerate(table) if number in chosen)
        for row in rows:
            yield resolve_image(row[self.image_column], self.image_root)

    def example(self, index: int, image: StoredImage) -> Example:
        return Example(self.numbers[index], image, self.texts[index], self.labels[index], self.image_keys[index])

    def read_image(self, number: int) -> StoredImage:
        """The image of one row of the table; its path made absolute."""
        return resolve_image(self.table[number][self.image_column], self.image_root)

    def select(self, indices: Sequence[int]) -> Rows:
        """The rows at these positions."""
        return replace(
            self,
            numbers=[self.numbers[i] for i in indices],
            texts=[self.texts[i] for i in indices],
            labels=[self.labels[i] for i in indices],
            image_keys=[self.image_keys[i] for i in indices],
        )

    def column(self, name: str) -> list:
        """Values of one of the source's own columns."""
        if self.is_stream:
            chosen = set(self.numbers)
            return [row[name] for number, row in enumerate(self.table.select_columns([name])) if number in chosen]
        return self.table.select(self.numbers)[name][:]


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


def make_label(value, names: list[str] | None, normalize: bool) -> str | None:
    """The name of a label; ``None`` where it is null, empty, or the -1 that `datasets` takes for "no label".

    Raises:
        ValueError: neither a string nor an integer.
    """
    if names is not None and value is not None:
        value = names[value] if value >= 0 else None
    if not (value is None or isinstance(value, str | int)) or isinstance(value, bool):
        raise ValueError(f"Labels must be strings or integers, got {value!r}; write the names of the classes.")
    label = "" if value is None else str(value)
    return (normalize_label(label) if normalize else label.strip()) or None


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


def load_rows(source: str, split: str, settings: DataSettings) -> Rows:
    """Read a source and check its texts and labels (images: `data.scan.scan_images`).

    Raises:
        ValueError: no rows, missing columns, or texts and labels that are not as they should be, named by row.
    """
    table, folder = load_source(source, split, streaming=settings.streaming and split == "train")
    with explain_parser_errors(Path(source), "rows"):
        first = next(iter(table), None)
    if first is None:
        raise ValueError(f"{source} has no rows.")
    wanted = {"image": [settings.image], "text": text_columns(settings.text), "label": [settings.label]}
    if settings.group and split == "train":
        wanted["group"] = [settings.group]
    if split == scored_split(settings):
        wanted["slice_by"] = settings.slice_by
    require_columns(list(first), wanted, source)
    feature = (table.features or {}).get(settings.label)
    names = feature.names if isinstance(feature, ClassLabel) else None
    texts, labels = [], []
    for row in table.select_columns(list(dict.fromkeys([*wanted["text"], settings.label]))):
        texts.append(make_text(row, settings.text))
        labels.append(make_label(row[settings.label], names, settings.normalize_labels))
    check_values(texts, labels, source, settings)
    known = [label for label in labels if label is not None]
    root = Path(settings.image_root) if settings.image_root else folder
    return Rows(source, table, settings.image, root, list(range(len(texts))), texts, known, [None] * len(texts))


def scored_split(settings: DataSettings) -> str:
    """The split that the figures after training are of; validation rows may still be part of train."""
    if settings.test is not None:
        return "test"
    return "validation" if settings.validation is not None else "train"


def check_values(texts: list[str | None], labels: list[str | None], source: str, settings: DataSettings) -> None:
    """Refuse rows without a label, rows without a text unless that is allowed, and texts that are not text."""
    refuse(
        [row for row, label in enumerate(labels) if label is None],
        source,
        f"have no label in column {settings.label!r}",
        "Fill them in or delete these rows.",
    )
    if not settings.allow_missing:
        refuse(
            [row for row, text in enumerate(texts) if text is None],
            source,
            f"have an empty text ({settings.text!r})",
            "Fill them in, delete these rows, or train with a learned 'no text' token: --data.allow_missing true.",
        )
    refuse(
        [row for row, text in enumerate(texts) if text is not None and not is_clean(text)],
        source,
        "have a text with NUL characters or lone surrogates, which no tokenizer can read",
        "Most likely the file was saved in another encoding; repair these rows.",
    )


def is_clean(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def refuse(rows: list[int], source: str, fault: str, cure: str) -> None:
    """Raise a ``ValueError`` that counts and names the rows, if there are any."""
    if rows:
        shown = ", ".join(str(row) for row in rows[:SHOWN]) + (", …" if len(rows) > SHOWN else "")
        raise ValueError(f"{len(rows)} rows of {source} {fault}: row {shown} (counted from 0). {cure}")
