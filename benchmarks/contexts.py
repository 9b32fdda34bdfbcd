"""The cost of each kind of context: time and memory of a training step, and what the cache of frozen encoders saves.

python -m benchmarks.contexts                                         # two Markdown tables
python -m benchmarks.contexts --batch 8 --image-size 32 --steps 1     # of smaller steps
"""

import argparse
import csv
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import torch

from app.settings_parser import parse_settings
from app.training.devices import build_accelerator
from benchmarks.peak_memory import peak_of
from benchmarks.quartiles import with_quartiles
from benchmarks.steps import Bench, start, step_time, steps
from benchmarks.timing import DEVICE, medians, paired
from data import prepare_data
from data.shapes import draw_scene, paint

TEXT, IMAGE = ["--context.text", "text"], ["--context.prior", "image"]
COLUMNS = ["--context.patient", "{kind: features, columns: [age, sex]}"]
CONTEXTS = {
    "text": TEXT,
    "image": IMAGE,
    "audio, 1 s": ["--context.second", "audio", "--model.audio_seconds", "1"],
    "audio, 10 s": ["--context.seconds", "audio", "--model.audio_seconds", "10"],
    "features, columns": COLUMNS,
    "features, vectors": ["--context.vectors", "features"],
    "text, image and columns": [*TEXT, *IMAGE, *COLUMNS],
}
"""Kind of context → options of the training. The first is what the others are compared with."""
CACHED = ("text", "image", "audio, 1 s", "audio, 10 s")
FROZEN = [part for name in ("image", "text", "audio") for part in (f"--train.scales.{name}_encoder", "0")]
WORDS, VECTORS, RATE = 24, (16, 256), 16_000
"""Words of a text, number and width of its vectors, and samples of a second of sound."""
ROUNDS = 5


@dataclass(frozen=True)
class Sizes:
    """Rows in a batch, side of an image in pixels, and steps of a measurement."""

    batch: int = 32
    image: int = 64
    steps: int = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=Sizes.batch, help="rows in a batch")
    parser.add_argument("--image-size", type=int, default=Sizes.image, help="side of an image in pixels")
    parser.add_argument("--steps", type=int, default=Sizes.steps, help="steps of a measurement")
    given = parser.parse_args()
    sizes = Sizes(given.batch, given.image_size, given.steps)
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")  # new processes return freed memory to the system
    print(
        f"{DEVICE}, {torch.get_num_threads()} threads, torch {torch.__version__}; VGG16 at {sizes.image} px, encoders "
        f"from scratch, {sizes.batch} rows a batch, decoded in the same process; texts of {WORDS} words, WAV files of "
        f"{RATE / 1000:.0f} kHz, {VECTORS[0]} vectors of {VECTORS[1]}; medians of {ROUNDS} paired rounds\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), sizes.batch)
        print(table_of_contexts(Path(folder), sizes) + "\n", flush=True)
        print(table_of_cache(Path(folder), sizes))


def write_rows(folder: Path, batch: int) -> None:
    """Write ``train.csv``, two batches of rows, and ``validation.csv``, two rows, with a column for each context."""
    rng, noise = random.Random(0), np.random.default_rng(0)
    words = ["".join(rng.choices("abcdefghij", k=6)) for _ in range(2000)]
    for split, number in (("train", 2 * batch), ("validation", 2)):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "prior", "second", "seconds", "vectors", "text", "age", "sex", "label"])
            for row in range(number):
                names = [f"{split}_{row}{end}" for end in (".png", "_prior.png", "_1.wav", "_10.wav", ".npy")]
                for name in names[:2]:
                    paint(draw_scene(rng), rng).save(folder / name)
                for name, seconds in zip(names[2:4], (1, 10), strict=True):
                    soundfile.write(folder / name, noise.uniform(-0.5, 0.5, seconds * RATE), RATE)
                np.save(folder / names[4], noise.normal(size=VECTORS).astype(np.float32))
                writer.writerow([*names, " ".join(rng.choices(words, k=WORDS)), 20 + row, "MF"[row % 2], row % 2])


def table_of_contexts(folder: Path, sizes: Sizes, rounds: int = ROUNDS) -> str:
    """Time of a training step with each kind of context, and its peak memory.

    Each round times every kind once, in random order. Memory is measured in a new process for each kind.
    """
    peaks = {name: peak_memory(folder, name, sizes) / 2**20 for name in CONTEXTS}
    trained = {name: training_steps(prepare(folder, name, sizes)) for name in CONTEXTS}
    times: dict[str, list[float]] = {name: [] for name in trained}
    random.seed(0)
    for number in range(rounds + 1):
        for name in random.sample(list(trained), len(trained)):
            seconds = step_time(trained[name], sizes.steps)
            if number:  # the first round warms up
                times[name].append(seconds)
    base, *_ = times.values()
    lines = [
        "| context | step, ms | times as long as with a text (quartiles) | peak memory, MiB |",
        "| --- | --- | --- | --- |",
    ]
    for name, own in times.items():
        ratio = with_quartiles([mine / text for mine, text in zip(own, base, strict=True)])
        lines.append(f"| {name} | {1000 * statistics.median(own):.0f} | {ratio} | {peaks[name]:,.0f} |")
    return "\n".join(lines)


def table_of_cache(folder: Path, sizes: Sizes, names: Sequence[str] = CACHED, rounds: int = ROUNDS) -> str:
    """Time of a step with all encoders frozen: their features are computed in each step, or read from the cache."""
    lines = [
        "| context, all encoders frozen | computed in each step, ms | from the cache, ms | times as fast (quartiles) |",
        "| --- | --- | --- | --- |",
    ]
    for name in names:
        cached = training_steps(prepare(folder, name, sizes, *FROZEN))
        plain = training_steps(prepare(folder, name, sizes, *FROZEN, "--train.cache_features", "false"))
        pairs = paired(rounds, partial(step_time, plain, sizes.steps), partial(step_time, cached, 2 * sizes.steps))
        before, after = (1000 * seconds for seconds in medians(pairs))
        ratio = with_quartiles([a / b for a, b in pairs])
        lines.append(f"| {name} | {before:.0f} | {after:.0f} | {ratio} |")
    return "\n".join(lines)


def prepare(folder: Path, name: str, sizes: Sizes, *more: str) -> Bench:
    """The settings of a training with a kind of context, and its rows."""
    files = ["--data.train", f"{folder}/train.csv", "--data.validation", f"{folder}/validation.csv"]
    files += ["--data.num_workers", "0", "--run_dir", f"{folder}/run", "--train.trackers", "[]"]
    model = ["--model.image_weights", "none", "--model.image_size", str(sizes.image)]
    model += ["--model.text_encoder", "scratch", "--model.audio_encoder", "scratch"]
    batch = ["--train.batch_size", str(sizes.batch), "--train.batch_rows", "0"]
    settings = parse_settings([*files, *model, *batch, *CONTEXTS[name], *more])
    return Bench(prepare_data(settings.data, 0), settings, build_accelerator(settings), ROUNDS)


def training_steps(bench: Bench) -> Iterator[int]:
    """Build a model; each item is a training step."""
    with redirect_stdout(sys.stderr):  # the cache tells its size
        training = start(bench, bench.settings)
    return steps(bench, bench.settings, training)


def peak_memory(folder: Path, name: str, sizes: Sizes) -> int:
    """Bytes that a model and two training steps need at their peak, measured in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_memory_here, folder, name, sizes).result()


def peak_memory_here(folder: Path, name: str, sizes: Sizes) -> int:
    """As `peak_memory`, beyond what this process has in use."""
    bench = prepare(folder, name, sizes)
    return peak_of(lambda: list(islice(training_steps(bench), 2)))


if __name__ == "__main__":
    main()
