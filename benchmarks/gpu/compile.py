"""torch.compile on and off: a training step, and inference with CUDA graphs."""

import os
import statistics
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate.utils import send_to_device

from app.inference.predictor import Predictor
from benchmarks.gpu.rows import batches, prepare, read_rows, whole_steps
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.table import Table
from benchmarks.quartiles import with_quartiles
from benchmarks.serving import build_vgg, forward
from benchmarks.steps import start
from benchmarks.timing import several, timed
from data import Example, InputCollate, decode_image

ABOUT = """## torch.compile

Training: whole steps on batches that are on the device, off and with `ACCELERATE_DYNAMO_BACKEND={}`. Inference: the
model on prepared inputs; `reduce-overhead` has CUDA graphs. Up to four batches of different texts in turn. Start: what
the first two passes over them take beyond later ones, which is compiling or loading kernels. Medians with quartiles."""
COLUMNS = ["what", "images", "torch.compile", "start, s", "ms", "images/s"]
STARTS = 2
"""Passes over the batches in which everything is compiled."""


def table(sizes: Sizes, folder: Path) -> Table:
    """The training step, and inference for the smallest and the default batch."""
    size = sizes.batches[0]
    cases = [
        (["training step", str(size), backend], partial(training_cells, sizes, folder, backend))
        for backend in ("no", sizes.compiler)
    ]
    cases += [
        (["inference", str(number), mode], partial(inference_cells, sizes, folder, number, mode))
        for number in (1, size)
        for mode in ("no", "default", "reduce-overhead")
    ]
    return Table(ABOUT.format(sizes.compiler), COLUMNS, cases)


def training_cells(sizes: Sizes, folder: Path, backend: str, until: float) -> list[str]:
    """Time of a whole step; accelerate compiles the model if the environment says so."""
    torch.compiler.reset()
    with patch.dict(os.environ, {"ACCELERATE_DYNAMO_BACKEND": backend}):
        bench = prepare(folder, sizes, sizes.batches[0])
        training = start(bench, bench.settings)
    given = batches(bench, training)
    return cells(partial(next, whole_steps(bench, training, given)), len(given), sizes.batches[0], sizes.seconds, until)


def inference_cells(sizes: Sizes, folder: Path, number: int, mode: str, until: float) -> list[str]:
    """Time of a pass of the model."""
    torch.compiler.reset()
    predictor = Predictor(*build_vgg(sizes.image))
    collate = InputCollate.of(predictor.processor, predictor.model.config)
    rows = read_rows(folder)[: 4 * number]
    examples = [Example(i, decode_image(image), text, image_key=str(i)) for i, (image, text) in enumerate(rows)]
    given = [
        send_to_device(collate(examples[first : first + number]), predictor.device)
        for first in range(0, len(examples), number)
    ]
    if mode != "no":
        predictor.model = torch.compile(predictor.model, backend=sizes.compiler, mode=mode)
    turns = cycle(given)
    return cells(lambda: forward(predictor, next(turns)), len(given), number, sizes.seconds, until)


def cells(work: Callable[[], object], number: int, images: int, seconds: float, until: float) -> list[str]:
    """Time of the start and of later calls.

    Args:
        number: batches in turn.
        images: in a batch.
        seconds: least time of a measurement.
    """
    first = timed(lambda: [work() for _ in range(STARTS * number)])
    times = several(work, until, seconds)
    usual = statistics.median(times)
    beyond = max(0.0, first - STARTS * number * usual)
    return [f"{beyond:.1f}", with_quartiles([1000 * one for one in times], ",.4g"), f"{images / usual:,.0f}"]
