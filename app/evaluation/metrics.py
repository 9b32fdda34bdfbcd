"""Metrics by scikit-learn through `evaluate`, offline, with bootstrap intervals over groups of rows.

`app.evaluation.metric_draws` computes the same metrics for the bootstrap draws. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import datasets
import evaluate
import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from app.evaluation.bootstrap import Resampler, bootstrap_interval, effective_groups
from app.evaluation.figures import ClassFigures
from app.evaluation.interval import Scores
from app.evaluation.metric_draws import Draws, has_class, in_top_k, known_classes, predicted_classes


def macro_average(metric: Callable, y_true: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None) -> float:
    """Mean of a one-vs-rest ranking metric over the classes that have positive and negative rows."""
    members = [has_class(y_true, c) for c in range(probabilities.shape[1])]
    values = [
        metric(member, probabilities[:, c], sample_weight=weights)
        for c, member in enumerate(members)
        if 0 < member.sum() < len(member)
    ]
    return float(np.mean(values)) if values else float("nan")


def f1(y_true: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None, labels, average: str) -> float:
    y_pred = predicted_classes(y_true, probabilities)
    return f1_score(y_true, y_pred, labels=labels, average=average, sample_weight=weights, zero_division=0)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]] = {
    "accuracy": lambda y, p, w: accuracy_score(y, predicted_classes(y, p), sample_weight=w),
    "balanced_accuracy": lambda y, p, w: recall_score(
        y, predicted_classes(y, p), labels=known_classes(y), average="macro", sample_weight=w, zero_division=0
    ),
    "micro_f1": lambda y, p, w: f1(y, p, w, None, "micro"),
    "macro_f1": lambda y, p, w: f1(y, p, w, known_classes(y), "macro"),
    "weighted_f1": lambda y, p, w: f1(y, p, w, np.unique(y) if y.ndim == 1 else None, "weighted"),
    "top_5_accuracy": lambda y, p, w: np.average(in_top_k(y, p), weights=w),
    "roc_auc": lambda y, p, w: macro_average(roc_auc_score, y, p, w),
    "average_precision": lambda y, p, w: macro_average(average_precision_score, y, p, w),
}
"""Metric → function of labels ``y``, probabilities ``p`` ``(n, C)`` and row weights ``w`` ``(n,)`` or ``None``.

Labels are class numbers ``(n,)``, or sets of classes ``(n, C + 1)``. A class number of -100, or 1 in the last column of
the sets, is a label that the model does not have: the row is wrong, and a negative example of every class. The accuracy
of sets is the share of rows whose whole set is correct."""


def defined_metrics(y_true: np.ndarray, num_classes: int) -> tuple[str, ...]:
    """The `METRICS` that are meaningful for one class a row, or for several."""
    if y_true.ndim == 2:
        return ("accuracy", "micro_f1", "macro_f1", "weighted_f1", "roc_auc", "average_precision")
    return tuple(name for name in METRICS if name != "micro_f1" and (name != "top_5_accuracy" or num_classes > 5))


def default_metric(label_type: str) -> str:
    """The metric that a model is judged by unless the user names another.

    For several labels a row it is the average precision, because whole sets are seldom exactly right.
    """
    return "average_precision" if label_type == "multi" else "accuracy"


class SklearnMetric(evaluate.Metric):
    """One of `METRICS` as a metric of `evaluate`; ``evaluate.load`` would fetch a script from the Hub."""

    def _info(self) -> evaluate.MetricInfo:
        probabilities, number = datasets.Sequence(datasets.Value("float32")), datasets.Value("int64")
        return evaluate.MetricInfo(
            description=f"{self.config_name} by scikit-learn, from probabilities and classes",
            citation="Pedregosa et al. 2011, Scikit-learn: Machine Learning in Python",
            features=[
                datasets.Features({"predictions": probabilities, "references": references})
                for references in (number, datasets.Sequence(number))
            ],
        )

    def _compute(self, predictions, references, sample_weight=None) -> dict[str, float]:
        metric = METRICS[self.config_name]
        return {self.config_name: float(metric(np.array(references), np.array(predictions), sample_weight))}


def compute_metrics(
    probabilities: np.ndarray,
    y_true: np.ndarray,
    resampler: Resampler,
    names: Sequence[str] | None = None,
    weights: np.ndarray | None = None,
) -> Scores:
    """Metrics with 95 % bootstrap intervals.

    Args:
        probabilities: ``(n, C)``.
        y_true: class numbers ``(n,)`` or sets of classes ``(n, C + 1)``, see `METRICS`.
        names: some of `METRICS`; ``None`` for all that are meaningful.
        weights: weight of each row ``(n,)``, above 0; ``None`` for equal weights.

    Returns:
        metric → interval in [0, 1]. A metric that the rows do not define is absent, for example the area under the ROC
        curve of a single class.
    """
    values: dict[str, float] = {}
    for name in names or defined_metrics(y_true, probabilities.shape[1]):
        metric = SklearnMetric(config_name=name)
        values |= metric.compute(predictions=probabilities, references=y_true, sample_weight=weights)
    draws = Draws(probabilities, y_true, resampler, weights)
    number = num_effective_groups(draws, resampler)
    return {
        name: bootstrap_interval(value, draws.metric(name), number)
        for name, value in values.items()
        if not np.isnan(value)
    }


def num_effective_groups(draws: Draws, resampler: Resampler) -> float:
    """Effective number of groups under the weights of the rows."""
    return float(effective_groups(np.bincount(resampler.group, draws.weights), np.bincount(resampler.group)))


def num_different_groups(first: Draws, second: Draws, metric: str) -> float:
    """Effective number of groups with rows that count differently for a metric in two systems.

    As for `mean_interval`, groups count relative to the heaviest.
    """
    used, other = (counted_for(metric, draws.y_true, draws.probabilities) for draws in (first, second))
    sizes = np.bincount(first.group)
    differs = np.bincount(first.group, (used != other).any(axis=1)) > 0
    row_weights = np.bincount(first.group, first.weights) / sizes
    return float(row_weights[differs].sum() / row_weights.max())


def counted_for(metric: str, y_true: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """What a metric looks at in each row ``(n, k)``: probabilities, a label among the first five, or answers."""
    if metric in ("roc_auc", "average_precision"):
        return probabilities
    is_top_5 = metric == "top_5_accuracy"
    found = in_top_k(y_true, probabilities) if is_top_5 else predicted_classes(y_true, probabilities)
    return found.reshape(len(y_true), -1)


def class_table(
    probabilities: np.ndarray, y_true: np.ndarray, resampler: Resampler, weights: np.ndarray | None = None
) -> list[ClassFigures]:
    """Precision, recall and F1 of each of the C classes; arguments as of `compute_metrics`."""
    classes, y_pred = np.arange(probabilities.shape[1]), predicted_classes(y_true, probabilities)
    names = ("precision", "recall", "f1")
    *values, _ = precision_recall_fscore_support(y_true, y_pred, labels=classes, sample_weight=weights, zero_division=0)
    draws = Draws(probabilities, y_true, resampler, weights)
    columns = {}
    for name, value in zip(names, values, strict=True):
        drawn, numbers = draws.per_class(name), draws.effective_groups_per_class(name)
        columns[name] = [bootstrap_interval(value[c], drawn[:, c], float(numbers[c])) for c in classes]
    return [
        ClassFigures(int(has_class(y_true, c).sum()), columns["precision"][c], columns["recall"][c], columns["f1"][c])
        for c in classes.tolist()
    ]
