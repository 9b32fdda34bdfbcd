"""The cost of a training step, compared with a plain PyTorch loop and with the limits of this machine.

python -m benchmarks.training EASY_VQA                 # all parts, as the Markdown tables of docs/lab/performance.md
python -m benchmarks.training EASY_VQA naive cache     # some of them
python -m benchmarks.training EASY_VQA --sizes 112     # at one image size
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice, product
from operator import attrgetter
from pathlib import Path

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from app.settings import Settings
from app.settings_parser import parse_settings
from app.training.devices import build_accelerator
from app.training.trainer import Training
from benchmarks.quartiles import with_quartiles
from benchmarks.steps import Bench, count_operations, dtype_of, matrix_product, only_model, start, step_time, steps
from benchmarks.timing import DEVICE, clock, medians, paired, timed
from data import Example, decode_image, prepare_data

QUESTIONS = 32
"""Rows in a batch of the plain loop."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of easy_vqa, with train.csv")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 112, 224], help="image sizes in pixels")
    parser.add_argument("--rounds", type=int, default=7, help="number of paired measurements; medians are printed")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.")
    settings = easy_vqa(str(given.folder / "train.csv"))
    bench = Bench(prepare_data(settings.data, 0), settings, build_accelerator(settings), given.rounds)
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    precision = bench.accelerator.mixed_precision
    print(f"{device}, torch {torch.__version__}, {precision}, medians of {given.rounds} paired rounds\n", flush=True)
    for measure, columns in (PARTS[part] for part in given.parts or PARTS):
        print(f"{measure.__doc__}\n\n| image, px | {columns} |\n| --- |{' --- |' * (columns.count('|') + 1)}")
        for size in given.sizes:
            for line in measure(bench, size):
                print(line, flush=True)
        print()


def easy_vqa(train_file: str, *more: str) -> Settings:
    return parse_settings(["configs/easy_vqa.yaml", "--data.train", train_file, "--train.trackers", "[]", *more])


def before_first_step(bench: Bench, size: int, *more: str) -> tuple[Settings, Training]:
    """The settings and the state of ``train.py configs/easy_vqa.yaml`` before its first step, at an image size."""
    settings = easy_vqa(bench.settings.data.train or "", "--model.image_size", str(size), *more)
    bench.accelerator.free_memory()
    return settings, start(bench, settings)


def naive(bench: Bench, size: int) -> Iterator[str]:
    """Questions per second of `train_epoch`, and of the same model in a plain loop."""
    settings, training = before_first_step(bench, size)
    first = naive_steps(bench, copy.deepcopy(bench.accelerator.unwrap_model(training.model)), training)
    ours = steps(bench, settings, training)
    pairs = paired(bench.rounds, lambda: QUESTIONS / timed(first), lambda: questions_per_second(ours))
    theirs, mine = medians(pairs)
    yield f"| {size} | {theirs:.1f} | {mine:.0f} | {with_quartiles([ours / other for other, ours in pairs])} |"


def naive_steps(bench: Bench, model: nn.Module, training: Training) -> Callable[[], object]:
    """Build a plain training loop: it reads an image for every question and computes in float32.

    Returns:
        A function that makes the next step.
    """
    processor, label2id = training.processor, training.collate.label2id

    def collate(examples: list[Example]) -> dict[str, Tensor]:
        images = [decode_image(example.image) for example in examples if example.image is not None]
        batch = dict(processor(images, [example.text for example in examples]))
        return batch | {"labels": torch.tensor([label2id[example.label] for example in examples])}

    def batches() -> Iterator[dict[str, Tensor]]:
        while True:
            yield from DataLoader(bench.data.splits["train"], QUESTIONS, shuffle=True, collate_fn=collate)

    model = model.to(DEVICE, memory_format=torch.contiguous_format).train()
    optimizer, loader = torch.optim.AdamW(model.parameters(), lr=1e-4), batches()

    def step() -> float:
        batch = send_to_device(next(loader), DEVICE)
        labels = batch.pop("labels")
        loss = F.cross_entropy(model(**batch).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def questions_per_second(ours: Iterator[int], number: int = 3) -> float:
    """Questions per second over a number of steps."""
    started = clock()
    questions = sum(islice(ours, number))
    return questions / (clock() - started)


def cache(bench: Bench, size: int) -> Iterator[str]:
    """Time of a step with frozen encoders: their features are computed in each step, or read from the cache."""
    rows = bench.data.splits["train"]
    places: dict[str | None, list[int]] = {}
    for place, key in enumerate(rows.image_keys):
        places.setdefault(key, []).append(place)
    some = list(places.values())[:CACHED]
    chosen = {"all": [*chain.from_iterable(some)], "1": [of_image[0] for of_image in some]}
    with tempfile.TemporaryDirectory() as folder:
        for (name, options), texts in product(FROZEN.items(), chosen):
            splits = bench.data.splits | {"train": rows.select(chosen[texts])}
            fewer = replace(bench, data=replace(bench.data, splits=splits))
            cached = steps(fewer, *before_first_step(fewer, size, "--run_dir", f"{folder}/run", *options))
            plain = steps(fewer, *before_first_step(fewer, size, *options, "--train.cache_features", "false"))
            pairs = paired(bench.rounds, partial(step_time, plain, 2), partial(step_time, cached, 8))
            before, after = (1000 * seconds for seconds in medians(pairs))
            ratio = with_quartiles([a / b for a, b in pairs])
            yield f"| {size} | {name} | {texts} | {before:.0f} | {after:.0f} | {ratio} |"


CACHED = 640
"""Number of training images whose features are cached."""
FROZEN = {
    "VGG16": ["--train.scales.image_encoder", "0"],
    "VGG16 and text encoder": ["--train.scales.image_encoder", "0", "--train.scales.text_encoder", "0"],
}


def overhead(bench: Bench, size: int) -> Iterator[str]:
    """Share of a training step that is not the forward and backward pass of the model."""
    settings, training = before_first_step(bench, size)
    ours = steps(bench, settings, training)
    batches = list(islice(training.loader, 4))
    pairs = paired(
        bench.rounds,
        lambda: step_time(ours, 4),
        lambda: timed(lambda: [only_model(bench, training, batch) for batch in batches]) / 4,
    )
    update = 1000 * statistics.median(timed(lambda: clip_and_update(training)) for _ in range(bench.rounds))
    whole, model = (1000 * seconds for seconds in medians(pairs))
    yield f"| {size} | {whole:.0f} | {model:.0f} | {update:.0f} | {with_quartiles([1 - b / a for a, b in pairs])} |"


def clip_and_update(training: Training) -> None:
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
    training.optimizer.step()


def flops(bench: Bench, size: int) -> Iterator[str]:
    """Floating-point operations per second of the model, of VGG16's convolutions and of a large matrix product."""
    settings, training = before_first_step(bench, size)
    batch = next(iter(training.loader))
    works = {
        "step": lambda: only_model(bench, training, batch),
        "alone": convolutions(bench, size, settings.train.batch_size),
        "product": matrix_product(dtype_of(bench)),
    }
    operations = {name: count_operations(work) for name, work in works.items()}
    rounds = [{name: operations[name] / timed(work) / 1e9 for name, work in works.items()} for _ in range(bench.rounds)]
    step, alone, ceiling = (statistics.median(rates[name] for rates in rounds) for name in works)
    share = with_quartiles([rates["step"] / rates["alone"] for rates in rounds])
    yield f"| {size} | {operations['step'] / 1e9:,.0f} | {step:,.0f} | {alone:,.0f} | {ceiling:,.0f} | {share} |"


def convolutions(bench: Bench, size: int, batch_size: int) -> Callable[[], object]:
    """Forward and backward pass of the 13 convolutions of VGG16, each on its own input, without other layers."""

    def maps(width: int, block: int) -> Tensor:
        made = torch.randn(batch_size, width, size >> block, size >> block, device=DEVICE, dtype=dtype_of(bench))
        return made.contiguous(memory_format=torch.channels_last)

    layers, width = [], 3
    for block, channels in enumerate((64, 128, 256, 512, 512)):
        for _ in range(3 if block > 1 else 2):
            layer = nn.Conv2d(width, channels, 3, padding=1, device=DEVICE, dtype=dtype_of(bench))
            layer = layer.to(memory_format=torch.channels_last)
            layers.append((layer, maps(width, block).requires_grad_(len(layers) > 0), maps(channels, block)))
            width = channels

    def both_ways() -> None:
        for layer, inputs, gradient in layers:
            layer(inputs).backward(gradient)
            layer.zero_grad()
            inputs.grad = None

    return both_ways


def checkpointing(bench: Bench, size: int) -> Iterator[str]:
    """Gradient checkpointing: memory of the activations kept for the backward pass, and time of a step."""
    works, kept = [], []
    for option in ("false", "true"):
        _, training = before_first_step(bench, size, "--train.gradient_checkpointing", option)
        batch = next(iter(training.loader))
        works.append(partial(only_model, bench, training, batch))
        kept.append(bytes_kept(works[-1]) / 2**20)
    pairs = paired(bench.rounds, *(partial(timed, work) for work in works))
    plain, again = (1000 * seconds for seconds in medians(pairs))
    more = with_quartiles([b / a for a, b in pairs])
    yield f"| {size} | {kept[0]:,.0f} | {kept[1]:,.0f} | {plain:,.0f} | {again:,.0f} | {more} |"


def bytes_kept(work: Callable[[], object]) -> int:
    """Bytes that forward passes keep for backward passes; memory that tensors share is counted once."""
    sizes: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        work()
    return sum(sizes.values())


def operations(bench: Bench, size: int) -> Iterator[str]:
    """The operations that take most of the time of a step."""
    ours = steps(bench, *before_first_step(bench, size))
    list(islice(ours, 2))
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (DEVICE == "cuda")) as profiled:
        list(islice(ours, 3))
    kind = attrgetter("self_device_time_total" if DEVICE == "cuda" else "self_cpu_time_total")
    events = sorted(profiled.key_averages(), key=kind, reverse=True)
    total = sum(map(kind, events))
    for event in events[:12]:
        yield f"| {size} | `{event.key}` | {kind(event) / total:.0%} | {event.count / 3:.0f} |"


PARTS: dict[str, tuple[Callable[[Bench, int], Iterator[str]], str]] = {
    "naive": (naive, "plain loop, questions/s | this project, questions/s | times as fast (quartiles)"),
    "cache": (cache, "frozen | texts per image | without cache, ms per step | with cache | times as fast (quartiles)"),
    "overhead": (
        overhead,
        "step, ms | model alone, ms | clipping and optimizer, ms | share outside the model (quartiles)",
    ),
    "flops": (flops, "GFLOP per step | model, GFLOP/s | convolutions alone | matrix product | model / convolutions"),
    "checkpointing": (
        checkpointing,
        "kept, MiB | with checkpointing | model, ms | with checkpointing | times as long (quartiles)",
    ),
    "operations": (operations, "operation | share | calls per step"),
}


if __name__ == "__main__":
    main()
