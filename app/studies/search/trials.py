"""A trial of a search: a training with some settings, watched after each epoch, and what its answers cost."""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from optuna.trial import FrozenTrial, Trial
from torch.utils.flop_counter import FlopCounterMode

from app.inference.load import load_model
from app.inference.onnx_export import example_inputs
from app.settings import Settings
from app.training.best_epoch import best_metric
from app.training.run_folder import RunDir
from models.onnx_classifier import nest_inputs

Cost = Literal["none", "seconds", "work"]
"""What a search lowers besides raising the figure of the validation rows."""
TIMED = 15
"""Passes whose median is the time of an answer."""
QUIET = ["--data.test", "null", "--train.trackers", "[]", "--train.keep_checkpoints", "1"]
"""Options of ``train.py`` for every training of a search: the test rows are not read."""


def search_metric(settings: Settings) -> str:
    """The figure of the validation rows that a search judges by: that of ``--train.best_by``."""
    return best_metric(settings.train, settings.data.label_type)


def remove_weights(run: RunDir) -> None:
    """Delete the weights of a run, whose curves and settings stay."""
    for folder in (run.model, run.checkpoints):
        shutil.rmtree(folder, ignore_errors=True)


def answer_cost(model_folder: Path, cost: Cost) -> float:
    """What an answer costs: seconds on the CPU, median of `TIMED` passes, or multiplications in billions.

    The pass has seven pairs of five pictures and three texts, some without one.
    """
    model, processor = load_model(model_folder, trust_custom_encoder=True)
    flat = example_inputs(model, processor)
    pairs = len(flat["image_index"])
    inputs = nest_inputs(flat)
    with torch.no_grad():
        if cost == "work":
            with FlopCounterMode(display=False) as counter:
                model(**inputs)
            return counter.get_total_flops() / 2 / pairs / 1e9
        times: list[float] = []
        for _ in range(TIMED):
            started = time.perf_counter()
            model(**inputs)
            times.append(time.perf_counter() - started)
    return statistics.median(times) / pairs


@dataclass
class Watch:
    """Reports the epochs of a training to its trial, and ends it if the trial is pruned.

    Attributes:
        last_pruned: the last epoch after which it may end; 0 reports nothing.
    """

    trial: Trial
    last_pruned: float
    epoch: int = 0
    pruned: bool = False

    def __call__(self, epoch: int, best: float | None) -> bool:
        self.epoch = epoch
        if self.last_pruned and best is not None:
            self.trial.report(best, epoch)
            self.pruned = epoch <= self.last_pruned and self.trial.should_prune()
        return not self.pruned


def last_value(trial: FrozenTrial) -> float | None:
    """The figure of a trial, or the last one that a pruned trial reported."""
    if trial.values:
        return trial.values[0]
    return None if trial.last_step is None else trial.intermediate_values[trial.last_step]


def show_figure(value: float, metric: str) -> str:
    """A figure of the validation rows for people."""
    return f"{value:.4f}" if metric == "loss" else f"{value:.1%}"
