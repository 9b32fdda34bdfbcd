"""Schedules by step and epoch (learning rate, gates, early stopping), and which changes of them a run allows."""

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from app.settings import TrainSettings
from app.training.checkpoint import Progress


def num_epochs(options: TrainSettings, steps_per_epoch: int) -> int:
    """Passes over the training rows: ``epochs``, or as many whole ones as ``steps`` need."""
    return math.ceil(options.steps / max(1, steps_per_epoch)) if options.steps else options.epochs


def build_schedule(optimizer: Optimizer, options: TrainSettings, steps_per_epoch: int) -> LambdaLR:
    """The learning-rate schedule, to be stepped once per optimizer step."""
    return LambdaLR(optimizer, rate_factor(options, steps_per_epoch))


def rate_factor(options: TrainSettings, steps_per_epoch: int) -> Callable[[int], float]:
    """Factor of the learning rate by optimizer step, from 0: a linear warm-up, then cosine, steps or a constant.

    The warm-up of W steps begins with 1/W. The schedules of `transformers` begin with 0, so that their first step
    trains nothing.
    """
    num_steps = steps_per_epoch * num_epochs(options, steps_per_epoch)
    warmup_steps = round(options.warmup * num_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if options.schedule == "step":
            return options.step_gamma ** (step // (options.step_epochs * steps_per_epoch))
        if options.schedule == "cosine":
            progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return 1.0

    return factor


def first_gated_epoch(options: TrainSettings, steps_per_epoch: int) -> int:
    """The first epoch, counted from 0, in which gates are trained."""
    epochs = num_epochs(options, steps_per_epoch)
    return min(int(options.gate_warmup * epochs + 0.5), epochs - 1)


def is_enough(options: TrainSettings, progress: Progress) -> bool:
    """Whether early stopping ends the run."""
    return 0 < options.early_stopping <= progress.since_best


def objections(
    before: TrainSettings, after: TrainSettings, gated: bool, progress: Progress, records: Sequence[dict]
) -> list[str]:
    """Why a run cannot be resumed with another schedule; empty if it can.

    A run can be resumed if all its steps so far would have been the same with the new settings. It then ends with the
    same bits as a run that had the new settings from the start.

    Args:
        before, after: settings that differ at most in ``epochs``, ``steps``, ``warmup``, ``gate_warmup`` and
            ``early_stopping``.
        gated: whether the model has gates.
        progress: the progress at the checkpoint from which the run is resumed.
        records: the records of the run, for the best of its epochs.
    """
    if not progress.step:
        return []
    begun, steps_per_epoch = progress.epoch + (progress.epoch_step > 0), progress.steps_per_epoch
    epochs = num_epochs(after, steps_per_epoch)
    if epochs < begun:
        return [f"{begun} epochs are done or have begun"]
    found = []
    old, new = (rate_factor(options, steps_per_epoch) for options in (before, after))
    if any(old(step) != new(step) for step in range(progress.step + 1)):
        found.append(rate_objection(before, after, steps_per_epoch))
    gates = first_gated_epoch(before, steps_per_epoch), first_gated_epoch(after, steps_per_epoch)
    if gated and any((epoch < gates[0]) != (epoch < gates[1]) for epoch in range(begun)):
        found.append(
            f"gates were held open for {gates[0]} epochs: to keep that number, add --train.gate_warmup "
            f"{gates[0] / epochs:.8g}"
        )
    decided = max(0, progress.epoch - (progress.epoch_step == 0))  # early stopping after the last epoch is still open
    waits = epochs_without_gain(records)[:decided]
    if 0 < after.early_stopping <= max(waits, default=0):
        found.append(f"train.early_stopping {after.early_stopping} would have ended the run earlier")
    return found


def rate_objection(before: TrainSettings, after: TrainSettings, steps_per_epoch: int) -> str:
    """Why the learning rate of the steps so far would have been different."""
    if before.schedule == "cosine":
        return (
            f"the cosine schedule lowers the learning rate to 0 over {num_epochs(before, steps_per_epoch)} epochs, and "
            "the steps so far followed it; only the schedules constant and step are independent of the number of epochs"
        )
    old, new = (steps_per_epoch * num_epochs(options, steps_per_epoch) for options in (before, after))
    steps = round(before.warmup * old)
    share = steps / new
    return f"the warm-up took {steps:,} steps: to keep that number, add --train.warmup {share:.8g}"


def epochs_without_gain(records: Sequence[dict]) -> list[int]:
    """For each epoch from 1, the number of epochs since the best one so far, which may be a linear start (epoch 0)."""
    found: list[int] = []
    highest = -1.0
    for record in records:
        if "validation_accuracy" in record and record["step"]:
            accuracy = record["validation_accuracy"]
            is_best = record.get("best", accuracy > highest)  # earlier versions did not record it
            found.append(0 if is_best else (found[-1] if found else 0) + 1)
            highest = max(highest, accuracy)
    return found
