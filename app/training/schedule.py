"""The course of a training: learning rate and gates by step and epoch, and whether it may be changed on the way."""

from collections.abc import Sequence

from app.settings import TrainSettings
from app.training.checkpoint import Progress
from app.training.optimizer import rate_factor


def schedule_of(options: TrainSettings, steps_per_epoch: int) -> tuple:
    """What `app.training.optimizer.rate_factor` takes, in order."""
    num_steps = steps_per_epoch * options.epochs
    return options.schedule, num_steps, options.warmup, steps_per_epoch, options.step_epochs, options.step_gamma


def first_gated_epoch(options: TrainSettings) -> int:
    """The epoch, from 0, in which gates begin to learn."""
    return min(int(options.gate_warmup * options.epochs + 0.5), options.epochs - 1)


def is_enough(options: TrainSettings, progress: Progress) -> bool:
    """Whether early stopping ends the run here."""
    return 0 < options.early_stopping <= progress.since_best


def objections(
    before: TrainSettings, after: TrainSettings, gated: bool, progress: Progress, records: Sequence[dict]
) -> list[str]:
    """Why a run cannot go on with another course: what it did so far is not what it would have done then.

    Without objections it ends bit by bit as if it had begun with the new settings.

    Args:
        before, after: settings that differ in ``epochs``, ``warmup``, ``gate_warmup`` and ``early_stopping`` at most.
        gated: whether the model has gates.
        progress: what was done, of the checkpoint it goes on from.
        records: of the run, for the validation accuracy of its epochs.
    """
    if not progress.step:
        return []
    begun = progress.epoch + (progress.epoch_step > 0)
    if after.epochs < begun:
        return [f"{begun} epochs are done or under way"]
    found = []
    old, new = (rate_factor(*schedule_of(options, progress.steps_per_epoch)) for options in (before, after))
    if any(old(step) != new(step) for step in range(progress.step + 1)):
        found.append(rate_objection(before, after, progress.steps_per_epoch))
    gates = first_gated_epoch(before), first_gated_epoch(after)
    if gated and any((epoch < gates[0]) != (epoch < gates[1]) for epoch in range(begun)):
        found.append(
            f"gates were held open for {gates[0]} epochs, a share of all: add --train.gate_warmup "
            f"{gates[0] / after.epochs:.8g}, which is as many of {after.epochs}"
        )
    decided = max(0, progress.epoch - (progress.epoch_step == 0))  # what follows the last epoch is still to be decided
    waits = epochs_without_gain(records)[:decided]
    if 0 < after.early_stopping <= max(waits, default=0):
        found.append(f"with train.early_stopping {after.early_stopping} it would have ended before")
    return found


def rate_objection(before: TrainSettings, after: TrainSettings, steps_per_epoch: int) -> str:
    """Why the learning rate so far was another."""
    if before.schedule == "cosine":
        return (
            f"the cosine schedule lowers the learning rate to 0 over {before.epochs} epochs, and the steps that are "
            "done followed it; schedules constant and step do not depend on the number of epochs"
        )
    steps = round(before.warmup * steps_per_epoch * before.epochs)
    share = steps / (steps_per_epoch * after.epochs)
    return (
        f"the learning rate rose over {steps:,} steps, a share of all: add --train.warmup {share:.8g}, which is as "
        f"many of {after.epochs} epochs"
    )


def epochs_without_gain(records: Sequence[dict]) -> list[int]:
    """After each epoch, how many had passed since the best."""
    found: list[int] = []
    for record in records:
        if "validation_accuracy" in record:
            found.append(0 if record["best"] else (found[-1] if found else 0) + 1)
    return found
