"""Training steps of the application, as benchmarks take them, and the operations in them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch.utils.flop_counter import FlopCounterMode

from app.settings import Settings
from app.training.checkpoint import Progress
from app.training.step import train_epoch
from app.training.trainer import Training, build
from benchmarks.timing import DEVICE, timed
from data import Batch, PreparedData

SQUARE = 4096
"""Side of the square matrices whose product measures the peak speed of the machine."""


@dataclass
class Bench:
    """The data, the settings, the accelerator and the number of measurements."""

    data: PreparedData
    settings: Settings
    accelerator: Accelerator
    rounds: int = 7


def start(bench: Bench, settings: Settings) -> Training:
    """A training with new weights before its first step."""
    set_seed(0)
    training = Training.set_up(settings, bench.data, *build(settings, bench.data), bench.accelerator)
    training.to_device(settings, bench.data, bench.accelerator)
    return training


def steps(bench: Bench, settings: Settings, training: Training) -> Iterator[int]:
    """Make the steps of `train_epoch`, epoch after epoch; yields the number of questions of each step."""
    progress = Progress()
    while True:
        training.start_epoch(progress, settings.train)
        batches = iter(list(training.sampler))
        for _ in train_epoch(training, bench.accelerator, settings.train, progress):
            yield len(next(batches))
        progress.end_epoch(0.0, True)


def step_time(ours: Iterator[int], number: int) -> float:
    """Seconds per step, over a number of steps."""
    return timed(lambda: list(islice(ours, number))) / number


def only_model(bench: Bench, training: Training, batch: Batch) -> None:
    """Forward and backward pass of a batch that is already loaded."""
    inputs, targets = send_to_device(batch, DEVICE)
    output = training.model(**inputs)
    loss = training.loss_function(output.logits.float(), targets.labels, targets.weights) / len(targets.labels)
    bench.accelerator.backward(loss)
    for parameter in training.model.parameters():
        parameter.grad = None


def count_operations(work: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products in a function."""
    with FlopCounterMode(display=False) as counted:
        work()
    return counted.get_total_flops()


def matrix_product(dtype: torch.dtype, side: int = SQUARE) -> Callable[[], object]:
    """A product of two large matrices, whose speed is the ceiling of a training step."""
    square = torch.randn(side, side, device=DEVICE, dtype=dtype)
    return lambda: square @ square


def dtype_of(bench: Bench) -> torch.dtype:
    """The type in which convolutions and matrix products are computed."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(bench.accelerator.mixed_precision, torch.float32)
