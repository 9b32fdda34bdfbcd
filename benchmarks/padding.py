"""Training steps in which texts of similar length are encoded together, against one batch that is padded as a whole.

python -m benchmarks.padding --recipe finetune --train.scales.image_encoder 0 --data.train train.csv   # as train.py
"""

import statistics
import sys
from itertools import islice
from pathlib import Path

import torch
from transformers import set_seed

import models.text_encoder
from app.settings_parser import parse_settings
from app.training.checkpoint import Progress
from app.training.devices import build_accelerator
from app.training.step import train_epoch
from app.training.trainer import Training, build
from benchmarks.quartiles import with_quartiles
from benchmarks.timing import DEVICE, timed
from data import prepare_data

STEPS = 3
"""Steps of a measurement."""
ROUNDS = 5


def main(argv: list[str]) -> None:
    settings = parse_settings([*argv, "--train.trackers", "[]"])
    accelerator = build_accelerator(settings)
    data = prepare_data(settings.data, settings.train.seed)
    set_seed(settings.train.seed)
    training = Training.set_up(settings, data, *build(settings, data), accelerator)
    Path(settings.run_dir).parent.mkdir(parents=True, exist_ok=True)
    training.to_device(settings, data, accelerator)
    grouped, whole = dict(models.text_encoder.LAUNCH_MULTIPLICATIONS), dict.fromkeys(("cpu", "gpu"), float("inf"))
    share = padded_share(training)

    def steps(launch: dict[str, float]) -> float:
        """Seconds a step; both kinds train on the same batches."""
        models.text_encoder.LAUNCH_MULTIPLICATIONS.update(launch)
        training.start_epoch(Progress(), settings.train)
        taken = islice(train_epoch(training, accelerator, settings.train, Progress()), STEPS)
        return timed(lambda: list(taken)) / STEPS

    steps(grouped), steps(whole)  # warm up
    pairs = [(steps(whole), steps(grouped)) for _ in range(ROUNDS)]
    print(f"{DEVICE}, {torch.get_num_threads()} threads, torch {torch.__version__}, {accelerator.mixed_precision}")
    print(f"tokens of a padded batch for each real one: {share:.1f}")
    print("| s a step, padded | s a step, grouped | times as fast |\n| --- | --- | --- |")
    before, now = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(f"| {before:.2f} | {now:.2f} | {with_quartiles([one / other for one, other in pairs])} |")


def padded_share(training: Training) -> float:
    """Tokens of the padded batches of an epoch, divided by the real ones."""
    masks = [batch.inputs["attention_mask"] for batch in training.loader]
    return sum(mask.numel() for mask in masks) / sum(int(mask.sum()) for mask in masks)


if __name__ == "__main__":
    main(sys.argv[1:])
