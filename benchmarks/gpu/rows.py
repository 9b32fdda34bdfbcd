"""The rows that all parts measure with: JPEG files in a folder, and a training on them."""

import csv
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from accelerate.state import AcceleratorState
from accelerate.utils import send_to_device

from app.settings_parser import parse_settings
from app.training.devices import build_accelerator
from app.training.step import train_step
from app.training.trainer import Training
from benchmarks.gpu.sizes import Sizes
from benchmarks.photos import photo
from benchmarks.steps import Bench
from benchmarks.timing import DEVICE
from data import Batch, prepare_data

PHOTO, NOISE = (500, 375), 30
"""Width and height of a drawn picture, and its noise: the JPEG file has about 100 KB."""
WORDS, CLASSES = 10, 8
"""Words of a text, and number of labels."""


def write_rows(folder: Path, sizes: Sizes, images: Path | None = None) -> list[Path]:
    """Write ``train.csv`` and ``validation.csv``; returns the JPEG files, which are drawn if no folder is given.

    Raises:
        ValueError: the folder has fewer files than a batch has pictures.
    """
    if images is None:
        found = [folder / f"{number}.jpg" for number in range(sizes.pictures)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda number: found[number].write_bytes(photo(number, PHOTO, NOISE)), range(len(found))))
    else:
        files = (path.resolve() for path in images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        found = sorted(files)[: sizes.pictures]
    if len(found) < max(sizes.batches):
        raise ValueError(f"There are {len(found)} JPEG files in {images}; a batch needs {max(sizes.batches)}.")
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=6)) for _ in range(500)]
    for split, chosen in (("train", found), ("validation", found[:2])):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "text", "label"])
            for number, path in enumerate(chosen):
                writer.writerow([path, " ".join(rng.choices(words, k=WORDS)), f"class {number % CLASSES}"])
    (folder / "sizes.json").write_text(json.dumps(asdict(sizes)))
    return found


def read_sizes(folder: Path) -> Sizes:
    """The sizes that `write_rows` wrote."""
    return Sizes(**json.loads((folder / "sizes.json").read_text()))


def read_rows(folder: Path) -> list[tuple[bytes, str]]:
    """The JPEG file and the text of each training row."""
    with (folder / "train.csv").open(newline="", encoding="utf-8") as file:
        return [(Path(row["image"]).read_bytes(), row["text"]) for row in csv.DictReader(file)]


def prepare(folder: Path, sizes: Sizes, batch: int, workers: int = 0, precision: str = "auto") -> Bench:
    """The data of the folder, the settings of VGG16 with cross-attention, and an accelerator for the precision."""
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps the precision for the whole process
    files = ["--data.train", f"{folder}/train.csv", "--data.validation", f"{folder}/validation.csv"]
    files += ["--data.num_workers", str(workers), "--run_dir", f"{folder}/run", "--train.trackers", "[]"]
    model = ["--model.image_weights", "none", "--model.text_encoder", "scratch", "--model.image_size", str(sizes.image)]
    train = ["--train.batch_size", str(batch), "--train.batch_rows", "0", "--train.mixed_precision", precision]
    settings = parse_settings([*files, *model, *train, "--train.learning_rate", "1e-5"])
    return Bench(prepare_data(settings.data, 0), settings, build_accelerator(settings))


def batches(bench: Bench, training: Training) -> list[Batch]:
    """The batches of an epoch, up to four, on the device."""
    rows = bench.data.splits["train"]
    chosen = list(training.sampler)[:4]
    return [send_to_device(training.collate([rows[number] for number in numbers]), DEVICE) for numbers in chosen]


def whole_steps(bench: Bench, training: Training, given: list[Batch]) -> Iterator[None]:
    """Whole steps, again and again over batches that are on the device."""
    training.model.train()
    while True:
        for batch in given:
            train_step(training, bench.accelerator, bench.settings.train, [batch], 1)
            training.watch.norms.clear()
            training.watch.about.clear()
            yield
