"""Kinds of attention against torch's kernels, by the number of positions of each level."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from app.precision import choose_precision
from benchmarks.attention import HEADS, SIZES, WIDTH, build_kind, random_inputs
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.table import Table
from benchmarks.peak_memory import peak_of
from benchmarks.quartiles import with_quartiles
from benchmarks.timing import DEVICE, several
from models.attention_kinds import KINDS
from models.vgg import GRID

ABOUT = """## Kinds of attention

{dtype}, {rows} rows, {heads} heads of {width}, random normal inputs; {sizes}. Without weights, so `full` is torch's
choice among its kernels on a GPU. `sdpa` is `scaled_dot_product_attention` with one kernel allowed; `flex` is compiled
`flex_attention`, `flex, window` the same window as `window`. Medians with quartiles; memory beyond the inputs."""
COLUMNS = ["slots", "positions", "kind", "forward, ms", "forward and backward, ms", "peak memory, MiB"]
BACKENDS = {
    "sdpa, flash": SDPBackend.FLASH_ATTENTION,
    "sdpa, efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa, cuDNN": SDPBackend.CUDNN_ATTENTION,
    "sdpa, math": SDPBackend.MATH,
}
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def table(sizes: Sizes, folder: Path) -> Table:
    """All kinds for a context as long as the positions and for one of 49 slots; then flex attention, which compiles."""
    dtype = {"bf16": torch.bfloat16}.get(choose_precision("auto"), torch.float32)
    wanted = [
        (slots, number, kind)
        for kinds in ([*KINDS, *BACKENDS], ["flex", "flex, window"])
        for slots in (None, GRID * GRID)
        for number in sorted(sizes.positions, reverse="flex" in kinds)
        for kind in kinds
        if slots != number and not (slots and kind == "flex, window")
    ]
    cases = [
        ([f"{slots or number:,}", f"{number:,}", kind], partial(cells, kind, number, slots, dtype, sizes.rows))
        for slots, number, kind in wanted
    ]
    chosen = ", ".join(f"{name} {size}" for name, size in SIZES.items())
    about = ABOUT.format(dtype=dtype, rows=sizes.rows, heads=HEADS, width=WIDTH, sizes=chosen)
    return Table(about, COLUMNS, cases)


def cells(kind: str, number: int, slots: int | None, dtype: torch.dtype, rows: int, until: float) -> list[str]:
    """Time and memory of one kind."""
    attend, tensors = build(kind, number, slots or number), random_inputs(number, dtype, slots, rows)
    gradient = torch.randn_like(tensors[0])

    def both() -> None:
        attend(*tensors).backward(gradient)
        for tensor in tensors:
            tensor.grad = None

    forward = several(lambda: attend(*tensors), 0)
    whole = several(both, until)
    used = peak_of(both)
    times = [with_quartiles([1000 * seconds for seconds in found], ".3g") for found in (forward, whole)]
    return [*times, f"{used / 2**20:,.0f}"]


def build(kind: str, number: int, slots: int) -> Attend:
    """The attention of a kind, as a function of query, key and value.

    Raises:
        ImportError: this torch has no flex attention.
    """
    if kind in BACKENDS:
        return partial(one_kernel, BACKENDS[kind])
    if kind == "flex":
        return compiled_flex()
    if kind == "flex, window":
        return partial(compiled_flex(), block_mask=window_mask(number, SIZES["window"]))
    attend = build_kind(kind, slots)
    return lambda query, key, value: attend(query, key, value, None, False)[0]


def one_kernel(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Torch's attention with one of its kernels; an error if that cannot compute it."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(query, key, value)


def compiled_flex() -> Callable:
    """Flex attention as one kernel for one shape; uncompiled it computes all scores."""
    from torch.nn.attention.flex_attention import flex_attention

    torch.compiler.reset()  # after several shapes, torch would not compile further ones
    return torch.compile(flex_attention, dynamic=False)


def window_mask(number: int, window: int):
    """The block mask of a window around each position of a square grid, as `models.window_attention` has it."""
    from torch.nn.attention.flex_attention import create_block_mask

    side, half = round(number**0.5), window // 2

    def is_near(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        down, across = (query // side - key // side).abs(), (query % side - key % side).abs()
        return (down <= half) & (across <= half)

    return create_block_mask(is_near, None, None, number, number, device=DEVICE)
