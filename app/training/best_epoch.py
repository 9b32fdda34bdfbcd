"""The figure of the validation rows by which the best epoch is chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np

from app.evaluation.metrics import METRICS, default_metric, defined_metrics
from app.evaluation.predict import Predictions
from app.evaluation.targets import Targets
from app.settings import BestBy, TrainSettings
from data import LabelFormat, PreparedData
from data.errors import UserError


def best_metric(options: TrainSettings, label_type: str) -> str:
    """The metric that ``--train.best_by`` names; ``auto`` is the default of the label type."""
    return default_metric(label_type) if options.best_by == "auto" else options.best_by


def validation_figure(predictions: Predictions, metric: str) -> float:
    """A metric of the validation rows; the accuracy is that of the label type."""
    if metric == "accuracy":
        return predictions.accuracy()
    if metric == "loss":
        return predictions.loss()
    targets = predictions.targets
    return float(METRICS[metric](targets.classes(), predictions.whole, targets.weights))


def is_better(value: float, best: float | None, metric: str) -> bool:
    """Whether a value is better than the best so far, ``None`` before the first."""
    if best is None or math.isnan(best):
        return True
    return value < best if metric == "loss" else value > best


def kept_figure(records: Sequence[dict], metric: str) -> float | None:
    """The figure of the epoch whose model was kept, from the records of a run; ``None`` before the first epoch.

    It is the best epoch in runs of earlier versions, which did not mark it.
    """
    name = f"validation_{metric}"
    epochs = [record for record in records if name in record]
    if marked := [record[name] for record in epochs if record.get("best")]:
        return marked[-1]
    best: float | None = None
    for record in epochs:
        best = record[name] if is_better(record[name], best, metric) else best
    return best


def check_best_by(options: TrainSettings, data: PreparedData, form: LabelFormat) -> None:
    """Check that the validation rows define the metric.

    Raises:
        UserError: the metric is not for this kind of labels, or the rows have too few classes.
    """
    metric, rows = best_metric(options, form.type), data.splits["validation"]
    if metric == "loss":
        return
    label2id = {name: number for number, name in enumerate(data.label_names)}
    classes = Targets.of(rows.labels, label2id, form, rows.weights).classes()
    valid = [name for name in (*defined_metrics(classes, len(label2id)), "loss") if name in get_args(BestBy)]
    if metric not in valid:
        raise UserError(
            f"--train.best_by {metric} is not defined for labels of the type {form.type}; choose one of "
            f"{', '.join(valid)}."
        )
    probabilities = np.full((len(classes), len(label2id)), 1 / len(label2id))
    if math.isnan(METRICS[metric](classes, probabilities, None)):
        raise UserError(
            f"The validation rows have no class with rows inside and outside it, so their {metric} is not defined: "
            "give more of them (--data.validation, --data.validation_fraction), or choose --train.best_by loss."
        )
