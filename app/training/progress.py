"""How a run reports its progress: the console, records, experiment trackers."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from app.training.run_folder import RunDir
from data.errors import UserError

WARM_UP_STEPS, ESTIMATED_STEPS = 1, 4
"""Steps before and after the measurement of `SlowTrainingNote`."""
SLOW_HOURS = 0.5
"""Shorter trainings need no note."""


@contextmanager
def output_of_main_process() -> Iterator[None]:
    """Discard what the other processes of ``accelerate launch`` print, in any module; their errors remain.

    The `Accelerator` must exist: it alone reads which devices and processes the launcher chose.
    """
    if PartialState().is_main_process:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def keep_record(record: dict, run: RunDir, accelerator: Accelerator) -> None:
    """Write a record to ``metrics.jsonl`` and to the trackers."""
    if accelerator.is_main_process:
        run.log(record)
    accelerator.log({name: value for name, value in record.items() if name != "step"}, step=record["step"])


class EpochClock:
    """Measure the training of an epoch, from now on.

    Args:
        steps: steps of the epoch that are left; fewer than all if an interrupted run is resumed.
    """

    def __init__(self, steps: int):
        self.steps, self.started = steps, time.monotonic()

    def minutes(self, steps_per_epoch: int) -> float:
        """Minutes of the whole epoch at the speed of the steps since the start."""
        return (time.monotonic() - self.started) / 60 * steps_per_epoch / max(1, self.steps)


class SlowTrainingNote:
    """Estimate the time of a training on a CPU from its first steps, and name the way that is faster.

    Args:
        steps: steps that are left at the start.
        applies: whether an image encoder is trained on a CPU.
    """

    def __init__(self, steps: int, applies: bool):
        self.steps, self.applies, self.done, self.started = steps, applies, 0, time.monotonic()

    def step(self) -> str | None:
        """Count a step; returns a sentence once, if the training is slow."""
        self.done += 1
        if self.done == WARM_UP_STEPS:
            self.started = time.monotonic()
        if not self.applies or self.done != ESTIMATED_STEPS:
            return None
        seconds = (time.monotonic() - self.started) / (ESTIMATED_STEPS - WARM_UP_STEPS)
        hours = seconds * (self.steps - self.done) / 3600
        if hours < SLOW_HOURS:
            return None
        return (
            f"  the training will take about {hours:,.1f} hours on this CPU ({seconds:.1f} s a step); with frozen "
            "encoders it takes minutes: --recipe probe"
        )


def check_trackers(names: list[str]) -> None:
    """Refuse a tracker that accelerate does not know or whose package is not installed.

    Raises:
        UserError: with the known or the installed trackers.
    """
    known = sorted(tracker.value for tracker in LoggerType if tracker != LoggerType.ALL)
    there = sorted(tracker.value for tracker in get_available_trackers())
    for name in names:
        if name not in known:
            raise UserError(f"train.trackers: accelerate knows no tracker {name!r}; it knows {', '.join(known)}.")
        if name not in there:
            raise UserError(f"train.trackers: the package of {name!r} is not installed (pip install {name}).")
