"""Training that is killed at a chosen moment, and the comparison of two runs."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import app.atomic_write
import app.training.checkpoint
import app.training.finish
import app.training.step
import app.training.validation
import train
from app.training.checkpoint import Checkpoints
from app.training.run_folder import RunDir

RANDOM = ["--model.modality_dropout", "0.2", "--model.fusion_dropout", "0.2", "--train.augment", "true"]
RANDOM += ["--train.batch_size", "4", "--train.gradient_accumulation_steps", "2"]
"""Options with everything random: dropout, missing inputs, order and augmentation. An epoch has 3 steps."""


class Killed(BaseException):
    """Simulates SIGKILL: the code of a run does not catch it."""


class Clock:
    """Counts the moments at which a run can be killed, and kills it at one of them."""

    def __init__(self, deadline: int | None = None):
        self.moment, self.deadline = 0, deadline

    def tick(self) -> None:
        self.moment += 1
        if self.moment == self.deadline:
            raise Killed

    def around(self, function):
        def watched(*args, **kwargs):
            self.tick()
            result = function(*args, **kwargs)
            self.tick()
            return result

        return watched


WATCHED = [
    (app.training.step, "train_step"),
    (app.training.checkpoint, "save_file"),
    (app.atomic_write, "flush"),
    (os, "replace"),
    (shutil, "rmtree"),
    (RunDir, "log"),
    (RunDir, "save_model"),
    (app.training.validation, "predict"),
    (app.training.finish, "evaluate_to"),
]


def run_until(clock: Clock, command: list[str]) -> None:
    """Train; every watched function is a moment of the clock before it and after it."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in WATCHED:
            patch.setattr(owner, name, clock.around(getattr(owner, name)))
        train.main(command)


def outcome(run_dir: Path) -> tuple[dict, list[dict], dict]:
    """Weights, records without their times, and figures of a run; without the deletion check, see `blank_charts`."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        record.pop("minutes", None)
    figures = json.loads((run_dir / "evaluation/test/metrics.json").read_text())
    figures.pop("deletion", None)
    return load_file(run_dir / "model/model.safetensors"), records, figures


def assert_same(run_dir: Path, whole: Path) -> None:
    """Two runs have the same weights, records, figures and state of the optimizer, bit by bit."""
    (weights, records, figures), (all_weights, all_records, all_figures) = outcome(run_dir), outcome(whole)
    assert [name for name in all_weights if not torch.equal(weights[name], all_weights[name])] == []
    assert records == all_records
    assert figures == all_figures
    ends = [Checkpoints(folder / "checkpoints").all()[0] for folder in (run_dir, whole)]
    last, all_last = (load_file(end / "optimizer.safetensors") for end in ends)
    assert [name for name in all_last if not torch.equal(last[name], all_last[name])] == []
