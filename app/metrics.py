"""Metrics through `evaluate`, computed offline by scikit-learn, with bootstrap intervals over groups of rows."""

from collections.abc import Callable

import datasets
import evaluate
import numpy as np
from scipy.sparse import csr_matrix
from sklearn.metrics import accuracy_score, f1_score

from data import UNKNOWN

METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    "macro_f1": lambda references, predictions: f1_score(
        references, predictions, labels=sorted(set(references) - {UNKNOWN}), average="macro", zero_division=0
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

    def _compute(self, predictions, references) -> dict[str, float]:
        function = METRICS[self.config_name]
        return {self.config_name: float(function(np.array(references), np.array(predictions)))}


def score(
    predictions: np.ndarray, references: np.ndarray, groups: np.ndarray, resamples: int = 1000
) -> dict[str, dict[str, float]]:
    """Metrics with a 95 % percentile interval (Efron & Tibshirani 1993, section 13.3).

    Whole groups are drawn with replacement, since rows about one image are not independent.

    Args:
        predictions, references: class numbers ``(n,)``; references may hold -100 for unknown labels.
        groups: group of each row ``(n,)``, most often its image.

    Returns:
        metric → ``value``, ``low``, ``high``, each in [0, 1].
    """
    metric = evaluate.combine([SklearnMetric(config_name=name) for name in METRICS])
    values = metric.compute(predictions=predictions, references=references)
    draws = bootstrap(predictions, references, groups, resamples)
    bounds = {name: np.quantile(draws[name], [0.025, 0.975]).tolist() for name in METRICS}
    return {name: {"value": values[name], "low": bounds[name][0], "high": bounds[name][1]} for name in METRICS}


def bootstrap(
    predictions: np.ndarray, references: np.ndarray, groups: np.ndarray, resamples: int
) -> dict[str, np.ndarray]:
    """Each metric over ``resamples`` draws of the groups ``(resamples,)``.

    Both metrics follow from counts by class that add up over groups (right answers, predictions, references), so a
    draw is a sum of the counts of the groups drawn, and no metric is computed row by row a thousand times.
    """
    _, group = np.unique(groups, return_inverse=True)
    classes, column = np.unique(np.concatenate([predictions, references]), return_inverse=True)
    predicted, true = np.split(column, 2)
    shape = (group.max() + 1, len(classes))
    right = predictions == references

    def count(columns: np.ndarray, rows: np.ndarray) -> csr_matrix:
        return csr_matrix((np.ones(rows.sum()), (group[rows], columns[rows])), shape=shape)

    everything = np.ones(len(group), dtype=bool)
    draw = draw_groups(shape[0], resamples)
    hits, guesses, truths = (
        draw @ c for c in (count(true, right), count(predicted, everything), count(true, everything))
    )
    f1 = 2 * hits / np.maximum(guesses + truths, 1)
    occurs = (truths > 0) & (classes != UNKNOWN)
    return {
        "accuracy": hits.sum(axis=1) / truths.sum(axis=1),
        "macro_f1": (f1 * occurs).sum(axis=1) / np.maximum(occurs.sum(axis=1), 1),
    }


def mean_interval(values: np.ndarray, groups: np.ndarray, resamples: int = 1000) -> dict[str, float]:
    """Mean of the values of rows ``(n,)`` with its 95 % interval: ``value``, ``low``, ``high``."""
    _, group = np.unique(groups, return_inverse=True)
    draw = draw_groups(group.max() + 1, resamples)
    means = (draw @ np.bincount(group, values)) / (draw @ np.bincount(group))
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return {"value": float(values.mean()), "low": low, "high": high}


def draw_groups(number: int, resamples: int) -> np.ndarray:
    """How often each group is in each draw with replacement ``(resamples, number)``; the same in every call."""
    return np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=resamples)
