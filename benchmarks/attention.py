"""The cost of cross-attention: a training step of VGG16 with and without it, and each kind of attention alone.

python -m benchmarks.attention            # both parts, as the Markdown tables of docs/lab/attention.md
python -m benchmarks.attention kinds
python -m benchmarks.attention overhead
"""

import argparse
import multiprocessing
import os
import random
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg16

from benchmarks.peak_memory import peak_of
from benchmarks.quartiles import with_quartiles
from benchmarks.timing import DEVICE, clock
from models import MultiLevelCrossAttentionVGG, VGG16WithCrossAttention
from models.attention import Attention
from models.attention_kinds import KINDS, build_attention
from models.vgg import GRID

POSITIONS = (49, 196, 784, 3136, 12544)
HEADS, WIDTH = 2, 64
"""Number of heads and channels of a head: the 128 channels of VGG16's level with the most positions."""
SIZES = {"block_size": 256, "window": 7, "top_k": 8, "rank": 16}
"""Sizes of the kinds of attention; each kind takes its own."""
ROUNDS = 5
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("kinds", "overhead", "all"), default="all", help="what to measure")
    part = parser.parse_args().part
    os.environ.setdefault(
        "MALLOC_MMAP_THRESHOLD_", "65536"
    )  # in new processes glibc returns freed memory to the system
    print(
        f"{DEVICE}, {torch.get_num_threads()} threads, torch {torch.__version__}, medians of {ROUNDS} paired rounds\n"
    )
    if part != "overhead":
        for dtype in (torch.float32, torch.bfloat16):
            print(table_of_kinds(dtype) + "\n")
            print(table_of_kinds(dtype, slots=GRID * GRID) + "\n")
    if part != "kinds":
        print(table_of_steps(torch.bfloat16, 41, ["with cross-attention"]) + "\n")
        print(table_of_steps(torch.float32, 21, ["with cross-attention"]) + "\n")
        print(table_of_steps(torch.bfloat16, 11, list(NETWORKS)) + "\n")


def table_of_kinds(dtype: torch.dtype, slots: int | None = None) -> str:
    """Time and peak memory of forward and backward, and the error of the output, by kind and number of positions.

    Each round times every kind once. Memory is measured in a new process for each kind.

    Args:
        slots: length of the context; by default that of the query.
    """
    lines = [
        f"{dtype}, {HEADS} heads of {WIDTH}, {f'{slots} slots' if slots else 'as many slots as positions'}, "
        "random normal inputs; " + ", ".join(f"{name} {size}" for name, size in SIZES.items()),
        "",
        "| positions | kind | forward ms | forward + backward ms | times full | peak MiB | error |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for number in POSITIONS:
        kinds = build_kinds(slots or number)
        tensors = random_inputs(number, dtype, slots)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
        for attend in kinds.values():
            one_pass(attend, tensors)
        for _ in range(ROUNDS):
            for name, attend in kinds.items():
                times[name].append(one_pass(attend, tensors))
        with torch.no_grad():
            exact = kinds["full"](*tensors, None, False)[0].float()
            errors = {
                name: float((attend(*tensors, None, False)[0].float() - exact).norm() / exact.norm())
                for name, attend in kinds.items()
            }
        for name in kinds:
            forward, both = (1000 * statistics.median(column) for column in zip(*times[name], strict=True))
            ratio = statistics.median(mine[1] / full[1] for mine, full in zip(times[name], times["full"], strict=True))
            peak = max(0, peak_memory(name, number, dtype, slots)) / 2**20
            lines.append(
                f"| {number:,} | {name} | {forward:.1f} | {both:.1f} | {ratio:.2f} | {peak:.0f} | {errors[name]:.1e} |"
            )
    return "\n".join(lines)


def build_kinds(number: int) -> dict[str, Attention]:
    """All kinds of attention for a context of ``number`` slots, and torch's fused kernel, by name."""
    return {kind: build_kind(kind, number) for kind in KINDS} | {"fused (torch)": fused}


def build_kind(kind: str, number: int) -> Attention:
    """A kind of attention for a context of ``number`` slots."""
    built = build_attention(kind, number, **SIZES)
    return built.to(DEVICE) if isinstance(built, nn.Module) else built


def fused(
    query: Tensor, key: Tensor, value: Tensor, context_mask: Tensor | None, need_weights: bool
) -> tuple[Tensor, None]:
    """Attention by torch's fused kernel, which is exact."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=context_mask), None


def random_inputs(number: int, dtype: torch.dtype, slots: int | None = None, rows: int = 1) -> list[Tensor]:
    """Query ``(rows, HEADS, number, WIDTH)``, key and value ``(rows, HEADS, slots, WIDTH)``."""
    torch.manual_seed(0)
    lengths, options = (number, slots or number, slots or number), {"device": DEVICE, "dtype": dtype}
    return [torch.randn(rows, HEADS, length, WIDTH, **options, requires_grad=True) for length in lengths]


def one_pass(attend: Attention, tensors: Sequence[Tensor]) -> tuple[float, float]:
    """Seconds of the forward pass, and of forward and backward."""
    started = clock()
    output = attend(*tensors, None, False)[0]
    middle = clock()
    output.float().square().mean().backward()
    return middle - started, clock() - started


def peak_memory(name: str, number: int, dtype: torch.dtype, slots: int | None) -> int:
    """Bytes that a forward and a backward pass need beyond their inputs, measured in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_memory_here, (name, number, dtype, slots))


def peak_memory_here(name: str, number: int, dtype: torch.dtype, slots: int | None) -> int:
    one_pass(build_kinds(49)[name], random_inputs(49, dtype))  # libraries allocate some memory once
    attend, tensors = build_kinds(slots or number)[name], random_inputs(number, dtype, slots)
    return peak_of(lambda: one_pass(attend, tensors))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "with cross-attention": VGG16WithCrossAttention,
    "levels 4, 5": lambda: MultiLevelCrossAttentionVGG(levels=(4, 5)),
    "levels 3, 4, 5": lambda: MultiLevelCrossAttentionVGG(levels=(3, 4, 5)),
    "levels 2, 3, 4, 5": lambda: MultiLevelCrossAttentionVGG(levels=(2, 3, 4, 5)),
    "levels 2, 3, 4, 5, chunked": lambda: MultiLevelCrossAttentionVGG(levels=(2, 3, 4, 5), kind="chunked"),
}


def table_of_steps(dtype: torch.dtype, rounds: int, names: Sequence[str]) -> str:
    """Time of a training step (forward, backward, SGD) of torchvision's VGG16 and of our networks.

    Each round times every network once, in random order.
    """
    plain = "torchvision VGG16"
    networks: dict[str, Callable[[], nn.Module]] = {plain: vgg16} | {name: NETWORKS[name] for name in names}
    built = {name: build().to(DEVICE).train() for name, build in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in built}
    torch.manual_seed(0)
    random.seed(0)
    images = torch.randn(BATCH, 3, 224, 224, device=DEVICE)
    context = torch.randn(BATCH, 512, 7, 7, device=DEVICE)
    labels = torch.randint(1000, (BATCH,), device=DEVICE)
    for number in range(rounds + 1):
        for name, network in random.sample(list(built.items()), len(built)):
            inputs = (images,) if name == plain else (images, context)
            optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
            started = clock()
            with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(network(*inputs), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if number:  # the first round warms up
                times[name].append(clock() - started)
    base = times[plain]
    lines = [
        f"{dtype}, batch {BATCH}, 224 px, {rounds} paired rounds",
        "",
        "| network | parameters, M | step ms | times VGG16, median (quartiles) | fastest step, times VGG16 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, network in built.items():
        ratios = [mine / theirs for mine, theirs in zip(times[name], base, strict=True)]
        millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        lines.append(
            f"| {name} | {millions:.2f} | {1000 * statistics.median(times[name]):.0f} "
            f"| {with_quartiles(ratios, '.3f')} | {min(times[name]) / min(base):.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
