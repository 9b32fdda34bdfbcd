"""Rows in one form, (image, text, label), every fault named before training begins."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch.utils.data
from datasets import ClassLabel, Dataset, IterableDataset
from PIL import Image

from data.cells import StoredImage, as_number, is_clean, make_label, make_text, resolve_image, text_columns
from data.column_names import refuse_repeated, require_columns
from data.columns import StringColumn, write_columns
from data.errors import UserError
from data.images import BadImageError, decode_image
from data.label_format import LabelFormat
from data.labels import NoLabelsError
from data.messages import name_rows
from data.paths import user_path
from data.settings import TEXT_SLICES, DataSettings
from data.sources import explain_parser_errors, load_source
from data.value_range import ValueFigures, ValueRange, check_range, value_figures

WEIGHTS = (1e-6, 1e6)
"""Least and most that a row may count, besides 0: what float32 sums keep apart."""


@dataclass(frozen=True)
class Example:
    """One pair of an image and a text.

    Attributes:
        row: its number in the source, from 0.
        image: ``None`` if missing.
        text: ``None`` if missing.
        label: as `LabelFormat` reads it; ``None`` if there is nothing to learn or to score.
        image_key: equal for equal images.
        weight: of the row in the loss and in metrics.
    """

    row: int
    image: StoredImage | Image.Image
    text: str | None
    label: str | None = None
    image_key: str | None = None
    weight: float = 1.0


@dataclass
class Rows(torch.utils.data.Dataset[Example]):
    """A table as a sequence of `Example`; images stay where they are until a batch asks for them, the rest on the disk.

    ``numbers`` are the rows of ``table`` this sequence consists of, in order; the columns go with them. Where the
    table is a stream, rows come by iteration only, in the order of the stream. ``table_weights`` is what each row of
    ``table`` counts in the loss and in figures, where that differs. Image paths of a ``confined`` table stay below
    ``image_root``. ``values`` are the `data.value_range.VALUES` of the image of each row, where these were scanned, and
    ``value_range`` is how they are read.
    """

    source: str
    table: Dataset | IterableDataset
    image_column: str
    image_root: Path | None
    numbers: np.ndarray
    texts: StringColumn[str | None]
    labels: StringColumn[str]
    image_keys: StringColumn[str | None]
    table_weights: np.ndarray | None = None
    confined: bool = False
    values: np.ndarray | None = None
    value_range: ValueRange = None

    @property
    def weights(self) -> np.ndarray | None:
        """What each row counts ``(n,)``, above 0; ``None`` where all count alike."""
        return None if self.table_weights is None else self.table_weights[self.numbers]

    @property
    def is_stream(self) -> bool:
        return isinstance(self.table, IterableDataset)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """Several at once, as `DataLoader` asks for a batch: an image that rows share is read once."""
        keys = [self.image_keys[i] or i for i in indices]
        first = dict(zip(reversed(keys), reversed(indices), strict=True))
        images = {key: self.read_image(int(self.numbers[i])) for key, i in first.items()}
        return [self.example(i, images[key]) for key, i in zip(keys, indices, strict=True)]

    def __iter__(self) -> Iterator[Example]:
        for index, image in enumerate(self.images()):
            if isinstance(image, BadImageError):
                raise image
            yield self.example(index, image)

    def images(self) -> Iterator[StoredImage | BadImageError]:
        """The image of each row in order, in one pass over the table; of a cell that names none what is wrong."""
        table = self.table.select_columns([self.image_column])
        if isinstance(table, Dataset):
            rows: Iterable[dict] = table.select(self.numbers)
        else:
            rows = self.chosen(table)
        for row in rows:
            try:
                yield resolve_image(row[self.image_column], self.image_root, self.confined)
            except BadImageError as error:
                yield error

    def example(self, index: int, image: StoredImage) -> Example:
        number, label = int(self.numbers[index]), self.labels[index]
        weight = 1.0 if self.table_weights is None else float(self.table_weights[number])
        return Example(number, image, self.texts[index], label, self.image_keys[index], weight)

    def picture(self, index: int) -> Image.Image:
        """The decoded image of a row. `data.image_check.scan_images` has checked it, its number of pixels included."""
        image = self.read_image(int(self.numbers[index]))
        assert image is not None
        return decode_image(image, max_pixels=sys.maxsize, value_range=self.value_range)

    def read_image(self, number: int) -> StoredImage:
        """The image of one row of the table; its path made absolute."""
        return resolve_image(self.table[number][self.image_column], self.image_root, self.confined)

    def select(self, indices: Sequence[int]) -> Rows:
        """The rows at these positions."""
        return replace(
            self,
            numbers=self.numbers[np.asarray(indices, dtype=np.int64)],
            texts=self.texts.select(indices),
            labels=self.labels.select(indices),
            image_keys=self.image_keys.select(indices) if len(self.image_keys) else self.image_keys,  # if scanned
            values=None if self.values is None else self.values[np.asarray(indices, dtype=np.int64)],
        )

    def value_figures(self) -> list[ValueFigures]:
        """How the images are read that have more than 8 bits; empty where there are none."""
        assert self.values is not None, "images are scanned"
        return value_figures(self.values, self.image_keys, self.numbers, self.value_range)

    def column(self, name: str) -> list:
        """Values of one of the source's own columns."""
        if self.is_stream:
            return [row[name] for row in self.chosen(self.table.select_columns([name]))]
        return self.table.select(self.numbers)[name][:]

    def chosen(self, stream: Iterable[dict]) -> Iterator[dict]:
        """The rows of a stream that belong to this sequence."""
        numbers = iter(self.numbers)
        wanted = next(numbers, None)
        for number, row in enumerate(stream):
            if number == wanted:
                yield row
                wanted = next(numbers, None)


def load_rows(source: str, split: str, settings: DataSettings) -> Rows:
    """Read a source and check its texts and labels (images: `data.image_check.scan_images`).

    Raises:
        UserError: no rows, missing columns, or texts, labels and weights that are not as they should be, named by row.
    """
    value_range = check_range(settings.value_range)
    table, folder = load_source(source, split, streaming=settings.streaming and split == "train")
    with explain_parser_errors(Path(source), "rows"):
        first = next(iter(table), None)
    if first is None:
        raise UserError(f"{source} has no rows.")
    wanted = {"image": [settings.image], "text": text_columns(settings.text), "label": [settings.label]}
    if settings.group and split == "train":
        wanted["group"] = [settings.group]
    weight = settings.weight
    if weight and split == "train":
        wanted["weight"] = [weight]
    if split == scored_split(settings):
        wanted["slice_by"] = [name for name in settings.slice_by if name not in TEXT_SLICES]
    require_columns(list(first), wanted, source)
    optional = {"group": [settings.group or ""], "weight": [weight or ""], "slice_by": settings.slice_by}
    for setting, columns in optional.items():
        refuse_repeated(list(first), setting, columns, source)
    feature = (table.features or {}).get(settings.label)
    feature = getattr(feature, "feature", feature)  # of a list of classes
    names = feature.names if isinstance(feature, ClassLabel) else None
    form = LabelFormat.of(settings)
    faults = Faults([], [], [])
    values = table.select_columns(list(dict.fromkeys([*wanted["text"], settings.label])))
    texts, labels = write_columns(
        (
            (
                faults.check_text(number, make_text(row, settings.text)),
                faults.check_label(number, make_label(row[settings.label], names, settings.normalize_labels, form)),
            )
            for number, row in enumerate(values)
        ),
        2,
    )
    faults.refuse(source, settings)
    root = user_path(settings.image_root) if settings.image_root else folder
    numbers, keys = np.arange(len(texts)), write_columns([], 1)[0]
    weights = read_weights(table, weight, source) if weight and weight in first else None
    rows = Rows(source, table, settings.image, root, numbers, texts, labels, keys, weights, settings.confine_images)
    rows.value_range = value_range
    return rows if weights is None else rows.select(np.flatnonzero(weights).tolist())


def read_weights(table: Dataset | IterableDataset, column: str, source: str) -> np.ndarray:
    """What each row counts; rows that count nothing are named.

    Raises:
        UserError: weights that are no such numbers, by row, or that are all 0.
    """
    found = [row[column] for row in table.select_columns([column])]
    weights = np.array([as_number(value) for value in found], dtype=np.float64)
    low, high = WEIGHTS
    faulty = np.flatnonzero(~((weights == 0) | ((weights >= low) & (weights <= high)))).tolist()
    refuse(faulty, source, f"have no weight of 0, or {low:g} to {high:g}, in column {column!r}", "Correct them.")
    if not weights.any():
        raise UserError(f"All weights in column {column!r} of {source} are 0: no row counts.")
    if len(nothing := np.flatnonzero(weights == 0)):
        print(f"{len(nothing)} rows of {source} have a weight of 0 and are left out: {name_rows(nothing.tolist())}")
    return weights


def scored_split(settings: DataSettings) -> str:
    """The split that the figures after training are of; validation rows may still be part of train."""
    if settings.folds:
        return "train"
    if settings.test is not None:
        return "test"
    return "validation" if settings.validation is not None else "train"


@dataclass
class Faults:
    """Numbers of the rows without a label, without a text, and with a text that is none."""

    no_label: list[int]
    no_text: list[int]
    unclean: list[int]

    def check_label(self, row: int, label: str | None) -> str | None:
        """The label; whether it is missing is remembered."""
        if label is None:
            self.no_label.append(row)
        return label

    def check_text(self, row: int, text: str | None) -> str | None:
        """The text, but for one that cannot be kept; what is wrong with it is remembered."""
        if text is None:
            self.no_text.append(row)
        elif not is_clean(text):
            self.unclean.append(row)
            return None
        return text

    def refuse(self, source: str, settings: DataSettings) -> None:
        """Stop at rows without a label, rows without a text unless that is allowed, and texts that are not text."""
        refuse(
            self.no_label,
            source,
            f"have no label in column {settings.label!r}",
            "Fill them in or delete these rows."
            + (
                f" A row of none of the classes has {settings.label_separator!r} or an empty list."
                if settings.label_type == "multi"
                else ""
            ),
            NoLabelsError,
        )
        if not settings.allow_missing:
            refuse(
                self.no_text,
                source,
                f"have an empty text ({settings.text!r})",
                "Fill them in, delete these rows, or train with a learned 'no text' token: --data.allow_missing true.",
            )
        refuse(
            self.unclean,
            source,
            "have a text with NUL characters or lone surrogates, which no tokenizer can read",
            "Most likely the file was saved in another encoding; repair these rows.",
        )


def refuse(rows: list[int], source: str, fault: str, cure: str, error: type[UserError] = UserError) -> None:
    """Raise a ``ValueError`` that counts and names the rows, if there are any."""
    if rows:
        raise error(f"{len(rows)} rows of {source} {fault}: {name_rows(rows)} (counted from 0). {cure}")
