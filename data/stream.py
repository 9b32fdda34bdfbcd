"""Batches from training rows that are a stream, read in order once an epoch; images are never all in memory."""

import math
import random
from collections.abc import Iterator
from itertools import chain, groupby, islice

import torch
from torch.utils.data import DataLoader, IterableDataset

from data.collate import Collate, InputCollate
from data.rows import Example, Rows


class StreamedBatches(IterableDataset[list[Example]]):
    """Batches of ``batch_size`` images with their texts, shuffled within a buffer.

    Rows of one image travel together where they follow each other in the stream. The order depends on seed and
    epoch alone. With several processes each takes every n-th batch, all as many.

    Args:
        rows: rows whose table is a stream.
        batch_size: images a batch.
        buffer_size: rows among which the order is random.
        seed: of the order.
        max_texts_per_image: longer runs of rows with one image travel as several.
        num_processes, process_index: this process's share.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        buffer_size: int,
        seed: int,
        max_texts_per_image: int = 64,
        num_processes: int = 1,
        process_index: int = 0,
    ):
        self.rows = rows
        self.batch_size = batch_size
        self.buffer_size = buffer_size
        self.seed = seed
        self.epoch = self.start = 0
        self.num_processes = num_processes
        self.process_index = process_index
        self.max_texts_per_image = max_texts_per_image
        runs = groupby(enumerate(rows.image_keys), key=lambda item: item[1] or item[0])
        self.pieces = [math.ceil(sum(1 for _ in run) / max_texts_per_image) for _, run in runs]  # of each run
        self.num_units = sum(self.pieces)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch whose order the next iteration gives, and the number of the batch it starts with."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return max(1, self.num_units // self.batch_size // self.num_processes)

    @property
    def num_left_out(self) -> int:
        """Runs of rows, and pieces of one, that an epoch leaves out on all processes together."""
        return max(0, self.num_units - len(self) * self.num_processes * self.batch_size)

    def units(self) -> Iterator[list[Example]]:
        """Runs of rows with one image, or pieces of them, drawn at random from a buffer that the stream keeps full."""
        generator = random.Random(self.seed * 100_003 + self.epoch)
        buffer: list[list[Example]] = []
        held = 0
        for _, run in groupby(self.rows, key=lambda example: example.image_key or example.row):
            while piece := list(islice(run, self.max_texts_per_image)):
                buffer.append(piece)
                held += len(piece)
                while held > self.buffer_size:
                    held -= len(buffer[swap := generator.randrange(len(buffer))])
                    buffer[swap], buffer[-1] = buffer[-1], buffer[swap]
                    yield buffer.pop()
        generator.shuffle(buffer)
        yield from buffer

    def __iter__(self) -> Iterator[list[Example]]:
        batch: list[list[Example]] = []
        made = 0
        wanted = len(self) * self.num_processes
        for unit in self.units():
            batch.append(unit)
            if len(batch) == self.batch_size or (len(batch) == self.num_units and wanted == 1):
                if made % self.num_processes == self.process_index and made // self.num_processes >= self.start:
                    yield list(chain.from_iterable(batch))
                batch, made = [], made + 1
                if made == wanted:
                    return


def stream_loader(batches: StreamedBatches, collate: Collate | InputCollate) -> DataLoader:
    """Collated batches, read ahead by one process that is made anew each epoch, so that it knows the epoch."""
    generator = torch.Generator().manual_seed(0)  # its own, so that the global random state is left alone
    return DataLoader(batches, batch_size=None, collate_fn=collate, num_workers=1, generator=generator)
