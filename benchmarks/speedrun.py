"""Training time until a level of accuracy on the validation rows, by variant: each line is one change, with its gain.

python -m benchmarks.speedrun --variant "muon: --train.optimizer muon" --variant "16 a batch: --train.batch_size 16"

The first line is the configuration as it is. The clock runs while the model trains, not while it is validated.
"""

import argparse
import shlex
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from accelerate.utils import set_seed

from app.evaluation.predict import predict
from app.settings import Settings
from app.settings_parser import parse_settings
from app.training.checkpoint import Progress
from app.training.devices import build_accelerator
from app.training.schedule import num_epochs
from app.training.step import train_epoch
from app.training.trainer import Training, build
from benchmarks.timing import clock
from data import prepare_data


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        seconds: training time until the target was reached; ``None`` if it was not.
        steps: optimizer steps until then, or to the end.
        accuracy: of the last validation.
        step: seconds a step.
    """

    seconds: float | None
    steps: int
    accuracy: float
    step: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="configs/quickstart.yaml")
    parser.add_argument("--variant", action="append", default=[], help='"name: options of train.py", one for each line')
    parser.add_argument("--target", type=float, default=99.0, help="accuracy in percent that ends a training")
    parser.add_argument("--every", type=int, default=25, help="steps between two validations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options, shared = parser.parse_known_args()
    variants = {"as configured": ""} | dict(variant.split(": ", 1) for variant in options.variant)
    found: dict[str, list[Run]] = {name: [] for name in variants}
    for seed in options.seeds:
        for name, more in variants.items():
            arguments = [options.config, *shared, *shlex.split(more), "--train.seed", str(seed)]
            settings = parse_settings([*arguments, "--train.trackers", "[]"])
            found[name].append(run(settings, options.target / 100, options.every, print_accuracy))
            print(f"\n{name}, seed {seed}: {found[name][-1]}\n\n{table_of(found, options.target)}\n", flush=True)


def run(settings: Settings, target: float, every: int, on_validation: Callable[[int, float], None]) -> Run:
    """Train until the validation rows have an accuracy of ``target``, or to the end."""
    set_seed(settings.train.seed)
    data, accelerator = prepare_data(settings.data, settings.train.seed), build_accelerator(settings)
    training = Training.set_up(settings, data, *build(settings, data), accelerator)
    training.to_device(settings, data, accelerator, is_new=True)
    progress, seconds, accuracy = Progress(steps_per_epoch=training.steps_per_epoch), 0.0, 0.0
    started = clock()
    while progress.epoch < num_epochs(settings.train, training.steps_per_epoch):
        training.start_epoch(progress, settings.train)
        for _ in train_epoch(training, accelerator, settings.train, progress):
            if progress.step % every and progress.epoch_step < training.steps_per_epoch:
                continue
            seconds += clock() - started
            rows, size = data.splits["validation"], settings.train.batch_size
            accuracy = predict(training.model, rows, training.collate, accelerator, size).accuracy()
            on_validation(progress.step, accuracy)
            if accuracy >= target:
                return Run(seconds, progress.step, accuracy, seconds / progress.step)
            started = clock()
        progress.end_epoch(accuracy, True)
    return Run(None, progress.step, accuracy, seconds / progress.step)


def print_accuracy(step: int, accuracy: float) -> None:
    print(f"  step {step}: {accuracy:.1%}", flush=True)


def table_of(found: dict[str, list[Run]], target: float) -> str:
    """A line for each variant with its runs so far."""
    lines = [
        f"| variant | seconds to {target:g} %, each seed | median | times as fast | steps | s a step | last accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    base = median_seconds(next(iter(found.values())))
    for name, runs in found.items():
        if not runs:
            continue
        own = median_seconds(runs)
        cells = [
            name,
            ", ".join("not reached" if one.seconds is None else f"{one.seconds:.0f}" for one in runs),
            "–" if own is None else f"{own:.0f}",
            "–" if own is None or base is None else f"{base / own:.2f}",
            ", ".join(str(one.steps) for one in runs),
            f"{statistics.median(one.step for one in runs):.2f}",
            ", ".join(f"{one.accuracy:.1%}" for one in runs),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def median_seconds(runs: list[Run]) -> float | None:
    """The median time; ``None`` if a run did not reach the target."""
    seconds = [one.seconds for one in runs if one.seconds is not None]
    return statistics.median(seconds) if runs and len(seconds) == len(runs) else None


if __name__ == "__main__":
    main()
