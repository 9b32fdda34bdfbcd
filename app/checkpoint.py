"""Checkpoints from which an interrupted run goes on at the start of its next epoch."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator
from torch.optim.lr_scheduler import LRScheduler

from app.run_dir import replacing


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: epochs done.
        step: optimiser steps done.
        best: best validation accuracy so far.
        since_best: epochs since then.
    """

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    since_best: int = 0

    def end_epoch(self, accuracy: float) -> None:
        self.epoch += 1
        self.since_best = 0 if accuracy > self.best else self.since_best + 1
        self.best = max(self.best, accuracy)


def save_checkpoint(folder: Path, accelerator: Accelerator, schedule: LRScheduler, progress: Progress) -> None:
    """Write model, optimiser, random states, schedule and progress; the checkpoint before stays until this is whole."""
    new = folder.with_name(f"{folder.name}.writing")
    accelerator.save_state(str(new))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        state = {"progress": asdict(progress), "schedule": schedule.state_dict()}
        (new / "progress.json").write_text(json.dumps(state), encoding="utf-8")
        with replacing(folder) as place:
            place.rmdir()
            new.rename(place)
    accelerator.wait_for_everyone()


def load_checkpoint(folder: Path, accelerator: Accelerator, schedule: LRScheduler) -> Progress:
    """Put everything back as `save_checkpoint` found it."""
    accelerator.load_state(str(folder))
    state = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    schedule.load_state_dict(state["schedule"])
    return Progress(**state["progress"])
