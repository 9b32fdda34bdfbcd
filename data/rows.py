"""A data set of rows (image, text, label)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.utils.data
from datasets import Dataset, IterableDataset
from PIL import Image

from data.contexts import ContextCell, read_cell
from data.example import Example
from data.image_cells import StoredImage, resolve_image
from data.image_formats import BadImageError
from data.images import decode_image
from data.settings import NamedContext
from data.string_column import StringColumn
from data.value_range import ValueRange
from data.value_range_report import ValueRangeReport, report_value_ranges


@dataclass
class Rows(torch.utils.data.Dataset[Example]):
    """A table as a data set of `Example`.

    Images are read when a batch needs them. Texts, labels and image keys are on disk. If the table is a stream, rows
    are available only by iteration, in the order of the stream.

    Attributes:
        source: as named in the settings.
        table: the table with its own columns.
        image_column: column of the images.
        image_root: folder of relative image paths.
        numbers: row numbers in ``table`` of the rows in this data set, in order ``(n,)``.
        texts, labels, image_keys: one string for each row. Image keys are empty before
            `data.image_check.verify_images`.
        table_weights: weight of each row of ``table``; ``None`` if all weights are 1.
        confined: only read image paths inside ``image_root``.
        value_stats: `data.value_range.VALUE_STATS` of each row's image ``(n,)``; ``None`` before ``verify_images``.
        value_range: how images of more than 8 bits are read.
        frames: number of frames of each video; 1 if the images are pictures.
        contexts: the contexts beside the text.
        context_keys: name of a context → one key for each row, equal for equal values; empty before
            `data.context_check.verify_contexts`.
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
    value_stats: np.ndarray | None = None
    value_range: ValueRange = None
    frames: int = 1
    contexts: Sequence[NamedContext] = ()
    context_keys: dict[str, StringColumn[str | None]] = field(default_factory=dict)

    @property
    def weights(self) -> np.ndarray | None:
        """Row weights ``(n,)``, above 0; ``None`` if all are 1."""
        return None if self.table_weights is None else self.table_weights[self.numbers]

    @property
    def is_stream(self) -> bool:
        return isinstance(self.table, IterableDataset)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """The examples of a batch, as `DataLoader` requests them. An image that several rows share is read once."""
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
        """The image of each row in order, or the error for its cell, in one pass over the table."""
        table = self.table.select_columns([self.image_column])
        if isinstance(table, Dataset):
            rows: Iterable[dict] = table.select(self.numbers)
        else:
            rows = self.select_from(table)
        for row in rows:
            try:
                yield resolve_image(row[self.image_column], self.image_root, self.confined)
            except BadImageError as error:
                yield error

    def example(self, index: int, image: StoredImage) -> Example:
        number, label = int(self.numbers[index]), self.labels[index]
        weight = 1.0 if self.table_weights is None else float(self.table_weights[number])
        return Example(
            number, image, self.texts[index], label, self.image_keys[index], weight, self.context_cells(index)
        )

    def context_cells(self, index: int) -> dict[str, ContextCell | None]:
        """The contexts of a row by name, with the keys that `data.context_check.verify_contexts` gave them."""
        keys = {context.name: self.context_keys[context.name][index] for context in self.contexts}
        if not any(keys.values()):
            return dict.fromkeys(keys)
        row = self.table[int(self.numbers[index])]
        cells = {
            c.name: read_cell(row, c, self.image_root, self.confined) if keys[c.name] else None for c in self.contexts
        }
        return {
            name: None if cell is None else ContextCell(cell.value, str(keys[name])) for name, cell in cells.items()
        }

    def decoded_image(self, index: int, side: int | None = None) -> Image.Image:
        """The decoded image of a row. `data.image_check.verify_images` has checked its number of pixels before.

        Args:
            side: height and width in pixels to which it will be resized, see `data.images.reduce_jpeg`.
        """
        image = self.read_image(int(self.numbers[index]))
        assert image is not None
        how: dict[str, Any] = {"value_range": self.value_range, "frames": self.frames, "side": side}
        return decode_image(image, max_pixels=sys.maxsize, **how)

    def read_image(self, number: int) -> StoredImage:
        """The stored image of a row of the table."""
        return resolve_image(self.table[number][self.image_column], self.image_root, self.confined)

    def select(self, indices: Sequence[int]) -> Rows:
        """The rows at these indices, as a data set."""
        return replace(
            self,
            numbers=self.numbers[np.asarray(indices, dtype=np.int64)],
            texts=self.texts.select(indices),
            labels=self.labels.select(indices),
            image_keys=self.image_keys.select(indices) if len(self.image_keys) else self.image_keys,
            context_keys={name: keys.select(indices) for name, keys in self.context_keys.items()},
            value_stats=None if self.value_stats is None else self.value_stats[np.asarray(indices, dtype=np.int64)],
        )

    def input_keys(self) -> list[tuple[str | None, ...]]:
        """One key for each row, equal for rows with the same image, text and contexts."""
        return list(zip(self.image_keys, self.texts, *self.context_keys.values(), strict=True))

    def pictures_of(self, name: str) -> Rows:
        """The same rows with the pictures of a context in place of their images."""
        context = next(context for context in self.contexts if context.name == name)
        return replace(self, image_column=context.columns[0], image_keys=self.context_keys[name], contexts=(), frames=1)

    def value_range_reports(self) -> list[ValueRangeReport]:
        """How images of more than 8 bits are read; an empty list if there are none."""
        assert self.value_stats is not None, "verify_images comes first"
        return report_value_ranges(self.value_stats, self.image_keys, self.numbers, self.value_range)

    def column(self, name: str) -> list:
        """Values of a column of the table."""
        if self.is_stream:
            return [row[name] for row in self.select_from(self.table.select_columns([name]))]
        return self.table.select(self.numbers)[name][:]

    def select_from(self, stream: Iterable[dict]) -> Iterator[dict]:
        """The rows of a stream of the table that are in this data set."""
        numbers = iter(self.numbers)
        wanted = next(numbers, None)
        for number, row in enumerate(stream):
            if number == wanted:
                yield row
                wanted = next(numbers, None)
