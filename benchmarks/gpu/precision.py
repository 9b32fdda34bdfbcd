"""A training step in each precision."""

import statistics
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.rows import batches, prepare, whole_steps
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.table import Table
from benchmarks.peak_memory import peak, reset_peak
from benchmarks.quartiles import with_quartiles
from benchmarks.steps import count_operations, dtype_of, matrix_product, only_model, start
from benchmarks.timing import DEVICE, several

ABOUT = """## Precision

Whole steps (forward and backward pass, clipping, optimizer) on batches of {} images that are on the device. Medians
with quartiles. The setting is `--train.mixed_precision`; `no` is float32, in which torch by default uses TF32 for
convolutions only."""
COLUMNS = [
    "precision",
    "setting",
    "step, ms",
    "images/s",
    "model, TFLOP/s",
    "matrix product, TFLOP/s",
    "peak memory, MiB",
]
PRECISIONS = {
    "float32": ("no", "ieee", "ieee"),
    "float32, TF32 convolutions": ("no", "tf32", "ieee"),
    "TF32": ("no", "tf32", "tf32"),
    "bfloat16": ("bf16", "tf32", "ieee"),
    "float16": ("fp16", "tf32", "ieee"),
}
"""Name → mixed precision, and how float32 is computed in convolutions and in matrix products. The latter are torch's
defaults where the precision is a half one."""


def table(sizes: Sizes, folder: Path) -> Table:
    """One row for each precision."""
    cases = [
        ([name, f"`{setting}`"], partial(cells, sizes, folder, setting, convolutions, products))
        for name, (setting, convolutions, products) in PRECISIONS.items()
    ]
    return Table(ABOUT.format(max(sizes.batches)), COLUMNS, cases)


def cells(sizes: Sizes, folder: Path, setting: str, convolutions: str, products: str, until: float) -> list[str]:
    """Time and rates of a step."""
    if setting == "no" and convolutions == "tf32" and not (DEVICE == "cuda" and torch.cuda.is_tf32_supported()):
        raise RuntimeError("TF32 needs a GPU of compute capability 8.0 or more")
    torch.backends.cudnn.conv.fp32_precision = convolutions
    torch.backends.cuda.matmul.fp32_precision = products
    before, batch = reset_peak(), max(sizes.batches)
    bench = prepare(folder, sizes, batch, precision=setting)
    training = start(bench, bench.settings)
    given = batches(bench, training)
    steps = several(partial(next, whole_steps(bench, training, given)), until, sizes.seconds)
    used = peak() - before
    model, product = partial(only_model, bench, training, given[0]), matrix_product(dtype_of(bench), sizes.square)
    rates = [count_operations(work) / statistics.median(several(work, 0)) / 1e12 for work in (model, product)]
    return [
        with_quartiles([1000 * seconds for seconds in steps], ",.4g"),
        f"{batch / statistics.median(steps):,.0f}",
        *(f"{rate:,.3g}" for rate in rates),
        f"{used / 2**20:,.0f}",
    ]
