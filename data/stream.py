"""Batches from a stream of training rows, which is read in order once an epoch."""

import math
import random
from collections.abc import Iterator
from itertools import chain, groupby, islice

import torch
from torch.utils.data import IterableDataset

from data.collate import Collate, InputCollate
from data.example import Example
from data.rows import Rows
from data.sampler import full_batches
from data.workers import Loader, end_workers_at_exit, ignore_stop_signals


class StreamedBatches(IterableDataset[list[Example]]):
    """Batches of ``batch_size`` images with their texts, shuffled with a buffer.

    Consecutive rows with the same image stay together. The order depends only on seed and epoch. With several processes
    each takes every n-th batch, and all take the same number.

    Args:
        rows: rows whose table is a stream.
        batch_size: images in a batch.
        buffer_size: rows in the shuffle buffer.
        seed: of the order.
        max_texts_per_image: longer runs of rows with the same image are divided into several units.
        num_processes, process_index: select the batches of this process.

    Raises:
        UserError: too few images for a batch on each of several processes.
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
        self.units_per_image = [math.ceil(sum(1 for _ in run) / max_texts_per_image) for _, run in runs]
        self.num_units = sum(self.units_per_image)
        self.batches_per_process = full_batches(self.num_units, batch_size, num_processes)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Set the epoch of the next iteration, and the index of its first batch."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.batches_per_process

    @property
    def num_left_out(self) -> int:
        """Units that an epoch leaves out, over all processes."""
        return max(0, self.num_units - len(self) * self.num_processes * self.batch_size)

    def units(self) -> Iterator[list[Example]]:
        """Consecutive rows with the same image, drawn at random from the shuffle buffer."""
        generator = random.Random(self.seed * 100_003 + self.epoch)
        buffer: list[list[Example]] = []
        held = 0
        for _, run in groupby(self.rows, key=lambda example: example.image_key or example.row):
            while unit := list(islice(run, self.max_texts_per_image)):
                buffer.append(unit)
                held += len(unit)
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


def stream_loader(batches: StreamedBatches, collate: Collate | InputCollate) -> Loader:
    """Load batches in one worker process, which starts anew each epoch with the current epoch.

    The loader leaves the global random state unchanged.
    """
    end_workers_at_exit()
    generator = torch.Generator().manual_seed(0)
    return Loader(
        batches,
        batch_size=None,
        collate_fn=collate,
        num_workers=1,
        worker_init_fn=ignore_stop_signals,
        generator=generator,
    )
