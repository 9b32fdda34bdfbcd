"""A training step from JPEG files, through the loader and `train_epoch`."""

import statistics
import sys
from collections.abc import Iterator
from functools import cache, partial
from itertools import count, islice
from pathlib import Path
from unittest.mock import patch

import torch
from torch.utils.data import Sampler

import data.collate
from app.training.checkpoint import Progress
from app.training.step import train_epoch
from app.training.trainer import Training
from benchmarks.gpu.rows import batches, prepare
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.table import Table
from benchmarks.peak_memory import peak, reset_peak
from benchmarks.quartiles import with_quartiles
from benchmarks.steps import Bench, count_operations, dtype_of, matrix_product, only_model, start
from benchmarks.timing import several
from data import ImageBatchSampler, make_loader

ABOUT = """## Training step

VGG16 with batch norm and cross-attention, one text per image, weights from scratch. Steps of `train_epoch` in a steady
state: the order has no end, so that workers never wait for an epoch, and the files are in the memory of the system. The
model alone is forward and backward pass of a batch on the device. The ceiling is the rate of a product of two square
matrices; the goal is 50 %. Medians with quartiles."""
COLUMNS = ["batch", "workers", "memory format", "images/s", "model alone, images/s", "share outside the model"]
COLUMNS += ["GFLOP an image", "ceiling, TFLOP/s", "step / ceiling", "model / ceiling", "peak memory, MiB"]
IMAGES, EVERYTHING, NOTHING = "channels-last images", "channels-last images and weights", "contiguous"
"""Memory formats. The first is that of the application (`data.collate.FAST`)."""


def table(sizes: Sizes, folder: Path) -> Table:
    """Batch sizes and numbers of workers, and the memory formats at the largest of them."""
    (few, many), (default, more) = sizes.batches, sizes.workers
    chosen = [(few, default, IMAGES), (few, more, IMAGES), (many, more, IMAGES)]
    chosen += [(many, more, NOTHING), (many, more, EVERYTHING)]
    cases = [
        ([str(batch), str(workers), layout], partial(cells, sizes, folder, batch, workers, layout))
        for batch, workers, layout in chosen
    ]
    return Table(ABOUT, COLUMNS, cases)


def cells(sizes: Sizes, folder: Path, batch: int, workers: int, layout: str, until: float) -> list[str]:
    """The rates of whole steps and of the model alone."""
    bench = prepare(folder, sizes, batch, workers)
    ceiling = peak_rate(dtype_of(bench), sizes.square)
    before = reset_peak()
    with patch.object(data.collate, "FAST", torch.contiguous_format if layout == NOTHING else torch.channels_last):
        training = start(bench, bench.settings)
        if layout == EVERYTHING:
            training.model.to(memory_format=torch.channels_last)
        stream = endless_steps(bench, training)
        loaded = 2 * workers + 1  # batches that workers have ready before the first step: they hide a slow loader
        list(islice(stream, loaded))
        whole = [batch / seconds for seconds in several(partial(next, stream), until, sizes.seconds)]
        used = peak() - before
        stream.close()
        work = partial(only_model, bench, training, batches(bench, training)[0])
    model = [batch / seconds for seconds in several(work, 0, sizes.seconds, least=5)]
    outside = 1 - statistics.median(whole) / statistics.median(model)
    operations = count_operations(work) / batch
    return [
        *(with_quartiles(rates, ",.4g") for rates in (whole, model)),
        f"{outside:.1%}",
        f"{operations / 1e9:,.1f}",
        f"{ceiling / 1e12:,.3g}",
        *(f"{statistics.median(rates) * operations / ceiling:.1%}" for rates in (whole, model)),
        f"{used / 2**20:,.0f}",
    ]


@cache
def peak_rate(dtype: torch.dtype, side: int) -> float:
    """Operations per second of a product of two square matrices."""
    product = matrix_product(dtype, side)
    return count_operations(product) / statistics.median(several(product, 0, shortest=0.1))


def endless_steps(bench: Bench, training: Training) -> Iterator[None]:
    """The steps of `train_epoch` in one epoch without an end."""
    sampler = training.sampler
    assert isinstance(sampler, ImageBatchSampler)
    workers = bench.settings.data.num_workers
    training.loader = make_loader(bench.data.splits["train"], Endless(sampler), training.collate, workers)
    training.steps_per_epoch = sys.maxsize
    for _ in train_epoch(training, bench.accelerator, bench.settings.train, Progress()):
        yield


class Endless(Sampler[list[int]]):
    """The batches of one epoch after another."""

    def __init__(self, sampler: ImageBatchSampler):
        self.sampler = sampler

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in count():
            self.sampler.set_epoch(epoch)
            yield from self.sampler
