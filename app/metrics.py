"""Metrics through `evaluate`, computed offline by scikit-learn, with bootstrap intervals over groups of rows."""

from collections.abc import Callable

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score

METRICS: dict[str, Callable[..., float]] = {
    "accuracy": accuracy_score,
    "macro_f1": lambda references, predictions, sample_weight=None: f1_score(
        references,
        predictions,
        labels=sorted(set(references) - {-100}),
        average="macro",
        sample_weight=sample_weight,
        zero_division=0,
    ),
}


class SklearnMetric(evaluate.Metric):
    """A metric of `METRICS` as `evaluate` knows metrics; ``evaluate.load`` would fetch a script from the Hub.

    References may hold -100, a label the model does not know: such a row is wrong in every metric.
    """

    def _info(self) -> evaluate.MetricInfo:
        integer = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=f"{self.config_name} by scikit-learn",
            citation="",
            features=datasets.Features({"predictions": integer, "references": integer}),
        )

    def _compute(self, predictions, references, sample_weight=None) -> dict[str, float]:
        function = METRICS[self.config_name]
        return {self.config_name: float(function(references, predictions, sample_weight=sample_weight))}


def score(
    predictions: np.ndarray,
    references: np.ndarray,
    groups: np.ndarray,
    names: tuple[str, ...] = tuple(METRICS),
    resamples: int = 1000,
) -> dict[str, dict[str, float]]:
    """Metrics with a 95 % percentile interval (Efron & Tibshirani 1993, section 13.3).

    Whole groups are drawn with replacement, since rows about one image are not independent. A resample is a weight
    on each row, so that a metric is any function that takes ``sample_weight``.

    Args:
        predictions, references: class numbers ``(n,)``; references may hold -100 for unknown labels.
        groups: group of each row ``(n,)``, most often its image.
        names: keys of `METRICS`.

    Returns:
        metric → ``value``, ``low``, ``high``, each in [0, 1].
    """
    metric = evaluate.combine([SklearnMetric(config_name=name) for name in names])
    values = metric.compute(predictions=predictions, references=references)
    _, number = np.unique(groups, return_inverse=True)
    num_groups = number.max() + 1
    generator = np.random.default_rng(0)
    draws: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(resamples):
        weight = generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups))[number]
        for name in names:
            draws[name].append(METRICS[name](references, predictions, sample_weight=weight))
    bounds = {name: np.quantile(draws[name], [0.025, 0.975]).tolist() for name in names}
    return {name: {"value": values[name], "low": bounds[name][0], "high": bounds[name][1]} for name in names}
