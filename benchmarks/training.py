"""What a step of training costs, against the loop one would write first and against this machine's limits.

python -m benchmarks.training EASY_VQA                 # all parts, as Markdown tables for docs/lab/performance.md
python -m benchmarks.training EASY_VQA naive cache     # some of them
python -m benchmarks.training EASY_VQA --sizes 112     # at one image size
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, product
from operator import attrgetter
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from app.settings import Settings, parse_settings
from app.training.checkpoint import Progress
from app.training.devices import build_accelerator
from app.training.step import train_epoch
from app.training.trainer import Training, build
from data import Batch, Example, PreparedData, decode_image, prepare_data

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
QUESTIONS = 32
"""Rows in a batch of the loop one would write first."""
SQUARE = 4096
"""Side of the matrices whose product stands for what the machine can do."""


@dataclass
class Bench:
    """What the parts share: the data, the accelerator of this process, and how often to measure."""

    data: PreparedData
    settings: Settings
    accelerator: Accelerator
    rounds: int

    def training(self, size: int, *more: str) -> tuple[Settings, Training]:
        """What ``train.py configs/easy_vqa.yaml`` has before its first step, at another image size."""
        settings = easy_vqa(self.settings.data.train or "", "--model.image_size", str(size), *more)
        set_seed(0)
        self.accelerator.free_memory()
        training = Training.set_up(settings, self.data, *build(settings, self.data), self.accelerator)
        training.to_device(settings, self.data, self.accelerator)
        return settings, training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="easy_vqa, with train.csv")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; all when not given")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 112, 224], help="sides of the images in pixels")
    parser.add_argument("--rounds", type=int, default=7, help="paired measurements, of which the median is told")
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


def naive(bench: Bench, size: int) -> Iterator[str]:
    """`train_epoch` against the same model in the loop one would write first, in questions a second."""
    settings, training = bench.training(size)
    first = naive_steps(bench, copy.deepcopy(bench.accelerator.unwrap_model(training.model)), training)
    ours = steps(bench, settings, training)
    pairs = paired(bench.rounds, lambda: QUESTIONS / timed(first), lambda: questions_a_second(ours))
    theirs, mine = medians(pairs)
    yield f"| {size} | {theirs:.1f} | {mine:.0f} | {spread([ours / other for other, ours in pairs])} |"


def naive_steps(bench: Bench, model: nn.Module, training: Training) -> Callable[[], object]:
    """The next step of a loop that reads an image for every question, in float32."""
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


def steps(bench: Bench, settings: Settings, training: Training) -> Iterator[int]:
    """One step of `train_epoch` after the other, epoch after epoch; gives how many questions each had."""
    progress = Progress()
    while True:
        training.start_epoch(progress, settings.train)
        batches = iter(list(training.sampler))
        for _ in train_epoch(training, bench.accelerator, settings.train, progress):
            yield len(next(batches))
        progress.end_epoch(0.0)


def questions_a_second(ours: Iterator[int], number: int = 3) -> float:
    started = clock()
    questions = sum(islice(ours, number))
    return questions / (clock() - started)


def cache(bench: Bench, size: int) -> Iterator[str]:
    """A step with frozen encoders, their features computed each time and read from the cache."""
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
            cached = steps(fewer, *fewer.training(size, "--run_dir", f"{folder}/run", *options))
            plain = steps(fewer, *fewer.training(size, *options, "--train.cache_features", "false"))
            pairs = paired(bench.rounds, partial(step_time, plain, 2), partial(step_time, cached, 8))
            before, after = (1000 * seconds for seconds in medians(pairs))
            yield f"| {size} | {name} | {texts} | {before:.0f} | {after:.0f} | {spread([a / b for a, b in pairs])} |"


CACHED = 640
"""Images of the training rows whose features are cached."""
FROZEN = {
    "VGG16": ["--train.scales.image_encoder", "0"],
    "VGG16 and text encoder": ["--train.scales.image_encoder", "0", "--train.scales.text_encoder", "0"],
}


def step_time(ours: Iterator[int], number: int) -> float:
    """Seconds a step."""
    return timed(lambda: list(islice(ours, number))) / number


def overhead(bench: Bench, size: int) -> Iterator[str]:
    """The share of a step that is not the model's forward and backward pass."""
    settings, training = bench.training(size)
    ours = steps(bench, settings, training)
    batches = list(islice(training.loader, 4))
    pairs = paired(
        bench.rounds,
        lambda: step_time(ours, 4),
        lambda: timed(lambda: [only_model(bench, training, batch) for batch in batches]) / 4,
    )
    update = 1000 * statistics.median(timed(lambda: clip_and_update(training)) for _ in range(bench.rounds))
    whole, model = (1000 * seconds for seconds in medians(pairs))
    yield f"| {size} | {whole:.0f} | {model:.0f} | {update:.0f} | {spread([1 - b / a for a, b in pairs])} |"


def only_model(bench: Bench, training: Training, batch: Batch) -> None:
    """Forward and backward of one batch that is there already."""
    inputs, targets = send_to_device(batch, DEVICE)
    output = training.model(**inputs)
    loss = training.loss_function(output.logits.float(), targets.labels, targets.weights) / len(targets.labels)
    bench.accelerator.backward(loss)
    for parameter in training.model.parameters():
        parameter.grad = None


def clip_and_update(training: Training) -> None:
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
    training.optimizer.step()


def flops(bench: Bench, size: int) -> Iterator[str]:
    """Floating-point operations a second of a step, of VGG16's convolutions alone, and of a large matrix product."""
    settings, training = bench.training(size)
    batch = next(iter(training.loader))
    works = {
        "step": lambda: only_model(bench, training, batch),
        "alone": convolutions(bench, size, settings.train.batch_size),
        "product": matrix_product(bench),
    }
    operations = {name: count_operations(work) for name, work in works.items()}
    rounds = [{name: operations[name] / timed(work) / 1e9 for name, work in works.items()} for _ in range(bench.rounds)]
    step, alone, ceiling = (statistics.median(rates[name] for rates in rounds) for name in works)
    share = spread([rates["step"] / rates["alone"] for rates in rounds])
    yield f"| {size} | {operations['step'] / 1e9:,.0f} | {step:,.0f} | {alone:,.0f} | {ceiling:,.0f} | {share} |"


def count_operations(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counted:
        work()
    return counted.get_total_flops()


def matrix_product(bench: Bench) -> Callable[[], object]:
    square = torch.randn(SQUARE, SQUARE, device=DEVICE, dtype=dtype_of(bench))
    return lambda: square @ square


def convolutions(bench: Bench, size: int, batch_size: int) -> Callable[[], object]:
    """Forward and backward of VGG16's thirteen convolutions, each on an input of its own, and nothing between them."""

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


def dtype_of(bench: Bench) -> torch.dtype:
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(bench.accelerator.mixed_precision, torch.float32)


def checkpointing(bench: Bench, size: int) -> Iterator[str]:
    """What gradient checkpointing saves, in activations that are kept for the backward pass, and costs, in time."""
    works, kept = [], []
    for option in ("false", "true"):
        _, training = bench.training(size, "--train.gradient_checkpointing", option)
        batch = next(iter(training.loader))
        works.append(partial(only_model, bench, training, batch))
        kept.append(bytes_kept(works[-1]) / 2**20)
    pairs = paired(bench.rounds, *(partial(timed, work) for work in works))
    plain, again = (1000 * seconds for seconds in medians(pairs))
    more = spread([b / a for a, b in pairs])
    yield f"| {size} | {kept[0]:,.0f} | {kept[1]:,.0f} | {plain:,.0f} | {again:,.0f} | {more} |"


def bytes_kept(work: Callable[[], object]) -> int:
    """Bytes that the forward passes leave for the backward ones, each tensor's memory counted once."""
    sizes: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        work()
    return sum(sizes.values())


def operations(bench: Bench, size: int) -> Iterator[str]:
    """Where the time of three steps goes, by operation."""
    ours = steps(bench, *bench.training(size))
    list(islice(ours, 2))
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (DEVICE == "cuda")) as profiled:
        list(islice(ours, 3))
    kind = attrgetter("self_device_time_total" if DEVICE == "cuda" else "self_cpu_time_total")
    events = sorted(profiled.key_averages(), key=kind, reverse=True)
    total = sum(map(kind, events))
    for event in events[:12]:
        yield f"| {size} | `{event.key}` | {kind(event) / total:.0%} | {event.count / 3:.0f} |"


def paired(rounds: int, first: Callable[[], float], second: Callable[[], float]) -> list[tuple[float, float]]:
    """Both measured in turn, after one of each to warm up."""
    return [(first(), second()) for _ in range(rounds + 1)][1:]


def medians(pairs: list[tuple[float, float]]) -> Iterator[float]:
    return (statistics.median(column) for column in zip(*pairs, strict=True))


def spread(ratios: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3g} ({low:.3g} – {high:.3g})"


def timed(work: Callable[[], object]) -> float:
    started = clock()
    work()
    return clock() - started


def clock() -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


PARTS: dict[str, tuple[Callable[[Bench, int], Iterator[str]], str]] = {
    "naive": (naive, "one pass a question, questions/s | ours, questions/s | times (quartiles)"),
    "cache": (cache, "frozen | texts an image | without cache, ms a step | with cache | times faster (quartiles)"),
    "overhead": (overhead, "step, ms | model alone, ms | clip and optimiser, ms | share outside (quartiles)"),
    "flops": (flops, "GFLOP a step | model, GFLOP/s | convolutions alone | matrix product | model / convolutions"),
    "checkpointing": (checkpointing, "kept, MiB | with checkpointing | model, ms | with checkpointing | times as long"),
    "operations": (operations, "operation | share | calls a step"),
}


if __name__ == "__main__":
    main()
