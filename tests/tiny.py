"""The smallest run of train.py, on the built-in data as a user's own table."""

import os
import subprocess
import sys
from pathlib import Path

from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

from data.shapes import SEEDS, generate_rows

ROOT = Path(__file__).parent.parent
NUM_TRAIN, NUM_TEST = (len(list(generate_rows(images, SEEDS[split]))) for images, split in ((24, "train"), (8, "test")))
TINY = ["--model.image_size", "32", "--model.classifier_hidden_size", "32", "--model.text_hidden_size", "32"]
TINY += ["--train.batch_size", "8", "--data.num_workers", "0", "--train.trackers", "[]"]
TINY += ["--train.pictures", "1"]


def small_encoder(folder: Path) -> list[str]:
    """Options for an image encoder that trains in a second."""
    sizes = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(sizes).save_pretrained(folder)
    ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return ["--model.image_encoder", str(folder), "--train.batch_size", "4", "--train.pictures", "0"]


def arguments(folder: Path, run_dir: Path, *more: str) -> list[str]:
    data = ["--data.train", str(folder / "train.csv"), "--data.test", str(folder / "test.csv")]
    return [*data, *TINY, "--run_dir", str(run_dir), "--train.epochs", "2", *more]


def launch(processes: int, script: str, options: list[str], **environment: str) -> subprocess.CompletedProcess:
    """A script in several processes of the CPU, as torchrun starts them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        [*command, script, *options], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False
    )
