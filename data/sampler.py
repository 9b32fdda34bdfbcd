"""Batches of row indices in which all texts of an image are together."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
import torch
from torch.utils.data import Sampler

from data.errors import UserError


class ImageBatchSampler(Sampler[list[int]]):
    """Sample batches of ``batch_size`` images, each with all its texts.

    The order depends only on seed and epoch, so any epoch can be reproduced. With several processes each takes every
    n-th batch.

    Args:
        image_keys: image of each row; a row without an image (``None``) counts as an image of its own.
        batch_size: images in a batch.
        shuffle: draw a new order each epoch; otherwise keep the order of the rows.
        weights: sampling weight of each row. An epoch then draws images with replacement, in proportion to the mean
            weight of their rows.
        drop_last: only use full batches, and the same number on every process. Each epoch then leaves out up to a batch
            of images a process, other ones each time. Otherwise every row is used, and batch sizes differ by at most
            one. The default is ``shuffle``, because small batches disturb batch normalization.
        seed: of the order.
        max_texts_per_image: images with more texts are divided into several units.
        num_processes, process_index: select the batches of this process.
    """

    def __init__(
        self,
        image_keys: Sequence[str | None],
        batch_size: int,
        *,
        shuffle: bool,
        weights: np.ndarray | None = None,
        drop_last: bool | None = None,
        seed: int = 0,
        max_texts_per_image: int = 64,
        num_processes: int = 1,
        process_index: int = 0,
    ):
        numbers: dict[str | int, int] = {}
        image_of_row = np.array(
            [numbers.setdefault(row if key is None else key, len(numbers)) for row, key in enumerate(image_keys)],
            dtype=np.int64,
        )
        self.rows = np.argsort(image_of_row, kind="stable")  # sorted by image
        self.ends = np.cumsum(np.bincount(image_of_row))
        self.weights: torch.Tensor | None = None
        if weights is not None:
            self.weights = torch.from_numpy(np.bincount(image_of_row, weights) / np.bincount(image_of_row))
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = shuffle if drop_last is None else drop_last
        self.seed = seed
        self.epoch = self.start = 0
        self.max_texts_per_image = max_texts_per_image
        self.num_processes = num_processes
        self.process_index = process_index

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Set the epoch of the next iteration, and the index of its first batch."""
        self.epoch, self.start = epoch, start

    def units(self) -> Iterator[list[int]]:
        """Rows of one image, at most ``max_texts_per_image`` at a time, in the order of this epoch."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        for image in self.order(generator):
            group = self.rows[self.ends[image - 1] if image else 0 : self.ends[image]]
            if self.shuffle:
                group = group[torch.randperm(len(group), generator=generator).numpy()]
            for start in range(0, len(group), self.max_texts_per_image):
                yield group[start : start + self.max_texts_per_image].tolist()

    def order(self, generator: torch.Generator) -> Iterable[int]:
        """Image numbers in the order of this epoch. With weights, at least ``num_units`` images are drawn."""
        number = len(self.ends)
        if self.weights is not None:
            return torch.multinomial(self.weights, self.num_units, replacement=True, generator=generator).numpy()
        return torch.randperm(number, generator=generator).numpy() if self.shuffle else range(number)

    def __iter__(self) -> Iterator[list[int]]:
        units, total = self.units(), self.num_batches
        smaller, larger = divmod(self.num_units, max(1, total))
        for number in range(total):
            size = self.batch_size if self.drop_last else smaller + (number < larger)
            batch = list(chain.from_iterable(islice(units, size)))
            if number % self.num_processes == self.process_index and number // self.num_processes >= self.start:
                yield batch

    def __len__(self) -> int:
        return len(range(self.process_index, self.num_batches, self.num_processes))

    @property
    def num_left_out(self) -> int:
        """Units that an epoch leaves out, over all processes."""
        return max(0, self.num_units - self.num_batches * self.batch_size)

    @property
    def units_per_image(self) -> np.ndarray:
        """Number of units of each image."""
        return np.ceil(np.diff(self.ends, prepend=0) / self.max_texts_per_image).astype(np.int64)

    @property
    def num_units(self) -> int:
        """Images over all processes; one with many texts counts as several."""
        return int(self.units_per_image.sum())

    @property
    def num_batches(self) -> int:
        """Batches over all processes."""
        num_units = self.num_units
        if not self.drop_last:
            return math.ceil(num_units / self.batch_size)
        return full_batches(num_units, self.batch_size, self.num_processes) * self.num_processes


def full_batches(num_units: int, batch_size: int, num_processes: int) -> int:
    """Number of full batches of each process; a single process has one batch of all units if these are too few.

    Raises:
        UserError: too few units for a batch on each of several processes.
    """
    full = num_units // batch_size // num_processes
    if full == 0 and num_processes > 1:
        raise UserError(
            f"{num_units} images make no batch of {batch_size} for each of {num_processes} processes; lower "
            "--train.batch_size."
        )
    return max(1, full)
