"""The smallest run of train.py, on the built-in data as a user's own table."""

import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import torch
from forked import Forked
from matplotlib.figure import Figure
from PIL import Image
from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

from data.shapes import SEEDS, generate_rows

ROOT = Path(__file__).parent.parent
NUM_TRAIN, NUM_TEST = (len(list(generate_rows(images, SEEDS[split]))) for images, split in ((24, "train"), (8, "test")))
TINY = ["--model.image_size", "32", "--model.classifier_hidden_size", "32", "--model.text_hidden_size", "32"]
TINY += ["--model.text_encoder", "scratch", "--model.image_weights", "none"]
TINY += ["--train.batch_size", "8", "--data.num_workers", "0", "--train.trackers", "[]"]
TINY += ["--train.pictures", "0", "--train.baselines", "false", "--train.batch_rows", "0"]
TINY += ["--train.linear_start", "false"]
RUN_DIR = ["--train.trackers", "[tensorboard]", "--data.slice_by", "[kind]", "--train.pictures", "1"]
"""Further options of the run in the fixture `run_dir`."""
VGG16 = ["--model.image_encoder", "vgg16"]
"""For tests that concern VGG16: `arguments` has a smaller image encoder."""


def save_encoder(folder: Path) -> None:
    """Save an untrained residual network of 16 channels, as transformers does."""
    sizes = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(sizes).save_pretrained(folder)
    ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)


def small_encoder(folder: Path) -> list[str]:
    """Options for an image encoder that trains in a second."""
    save_encoder(folder)
    return ["--model.image_encoder", str(folder), "--train.batch_size", "4"]


@cache
def shared_encoder() -> str:
    """The folder of an image encoder with the same weights in every process; it goes when this one ends."""
    folder = Path(tempfile.mkdtemp(prefix="image_encoder_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_encoder(folder)
    return str(folder)


def arguments(folder: Path, run_dir: Path, *more: str) -> list[str]:
    """A command line for train.py: the tables of a folder, a small model, 2 epochs; of equal options the last wins."""
    data = ["--data.train", str(folder / "train.csv"), "--data.test", str(folder / "test.csv")]
    model = ["--model.image_encoder", shared_encoder()]
    return [*data, *TINY, *model, "--run_dir", str(run_dir), "--train.epochs", "2", *more]


def save_blank(figure: Figure, file, **options) -> None:
    """Save an empty chart in the place of a figure."""
    if isinstance(file, StringIO):
        file.write("<svg ></svg>")
    else:
        Image.new("RGB", (1, 1)).save(file, "PNG")


def blank_svg(figures) -> dict[str, str]:
    """Empty charts of a report, by name."""
    names = ["inputs", "reliability", "risk", *["confusion"][: bool(figures.confusion)]]
    names += ["deletion", "insertion"] if figures.deletion else []
    return dict.fromkeys(names, '<svg aria-hidden="true"></svg>')


@contextmanager
def blank_charts() -> Iterator[None]:
    """Leave charts empty and check the maps of two rows, which takes more than half of the time of a small run."""
    with (
        patch.object(Figure, "savefig", save_blank),
        patch("app.reporting.html_report.draw_charts", blank_svg),
        patch("app.training.validation.draw_curves", lambda records, path: save_blank(Figure(), path)),
        patch("app.evaluation.deletion.MIN_ROWS", 2),
    ):
        yield


def launch(processes: int, script: str, options: list[str], **environment: str) -> subprocess.CompletedProcess:
    """A script in several processes of the CPU, as torchrun starts them."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), script, *options]
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        agent = Forked(command, output, ROOT, env, errors)
        try:
            code = agent.wait(240)
        finally:
            agent.terminate()  # it ends its processes
        return subprocess.CompletedProcess(command, code, output.read_text(), errors.read_text())
