"""The metrics of all bootstrap draws at once.

A draw is a number of times each row is counted, so a thousand draws cost a few matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from app.evaluation.bootstrap import Resampler, effective_groups
from data import UNKNOWN
from models.decisions import give_answers

TOP_K = 5
"""Number of most probable classes that the top-5 accuracy looks at."""
RANKING_RESAMPLES = 200
"""Number of draws for the metrics that rank all rows by class; the others use all draws."""
DENOMINATORS = {"precision": ("predicted",), "recall": ("actual",), "f1": ("predicted", "actual")}
"""Metric of a class → counts that its hits are divided by."""
MAX_CELLS = 5_000_000
"""Numbers held in memory at a time while draws are ranked."""


def has_class(y_true: np.ndarray, number: int) -> np.ndarray:
    """Mask of the rows of a class ``(n,)``."""
    return y_true == number if y_true.ndim == 1 else y_true[:, number] == 1


def known_classes(y_true: np.ndarray) -> list[int]:
    """Classes of the model that occur."""
    if y_true.ndim == 2:
        return np.flatnonzero(y_true[:, :-1].any(axis=0)).tolist()
    return sorted(set(y_true.tolist()) - {UNKNOWN})


def predicted_classes(y_true: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Answers in the form of the labels: class numbers ``(n,)``, or sets of classes ``(n, C + 1)``."""
    if y_true.ndim == 1:
        return probabilities.argmax(axis=1)
    return np.pad(give_answers(probabilities, "multi"), ((0, 0), (0, 1))).astype(int)


def in_top_k(y_true: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Whether the label is among the `TOP_K` most probable classes ``(n,)``; ties go to the lower class number."""
    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    return (ranked[:, :TOP_K] == y_true[:, None]).any(axis=1)


class Draws:
    """Metrics of rows in each bootstrap draw.

    Metrics that count rows by class are sums over groups of their hits (correct answers), predicted and actual classes.
    Metrics that rank rows use the number of times a row is drawn as its weight.

    Args:
        probabilities, y_true, resampler, weights: see `app.evaluation.metrics.compute_metrics`.
    """

    def __init__(
        self,
        probabilities: np.ndarray,
        y_true: np.ndarray,
        resampler: Resampler,
        weights: np.ndarray | None = None,
    ):
        self.probabilities, self.y_true = probabilities, y_true
        self.weights = np.ones(len(y_true)) if weights is None else weights
        self.group, self.drawn = resampler.group, resampler.draws
        self.num_classes = probabilities.shape[1]

    def metric(self, name: str) -> np.ndarray:
        """A metric in each draw ``(resamples,)``; a ranking metric in the first `RANKING_RESAMPLES`.

        A draw without any class of the model does not define a mean over the classes, and is NaN.
        """
        if name in ("roc_auc", "average_precision"):
            return self.ranking_metric(name)
        rows = self.sums(np.ones(len(self.y_true)))
        if name == "accuracy":
            correct = predicted_classes(self.y_true, self.probabilities) == self.y_true
            return self.sums((correct if correct.ndim == 1 else correct.all(axis=1)).astype(float)) / rows
        if name == "top_5_accuracy":
            return self.sums(in_top_k(self.y_true, self.probabilities).astype(float)) / rows
        actual, occurs = self.counts["actual"], self.counts["actual"] > 0
        labels = rows if self.y_true.ndim == 1 else actual.sum(axis=1) + self.sums(self.y_true[:, -1].astype(float))
        if name == "micro_f1":
            hits, predicted = self.counts["hits"].sum(axis=1), self.counts["predicted"].sum(axis=1)
            return divide_or_zero(2 * hits, predicted + labels)
        if name == "weighted_f1":
            return divide_or_zero(np.where(occurs, self.per_class("f1") * actual, 0).sum(axis=1), labels)
        values = self.per_class({"balanced_accuracy": "recall", "macro_f1": "f1"}[name])
        total, number = np.where(occurs, values, 0).sum(axis=1), occurs.sum(axis=1)
        return np.divide(total, number, out=np.full(len(number), np.nan), where=number > 0)

    def per_class(self, name: str) -> np.ndarray:
        """``precision``, ``recall`` or ``f1`` of each class in each draw ``(resamples, C)``, NaN where undefined."""
        hits = self.counts["hits"]
        total = np.sum([self.counts[kind] for kind in DENOMINATORS[name]], axis=0)
        return np.divide((1 + (name == "f1")) * hits, total, out=np.full(hits.shape, np.nan), where=total > 0)

    def effective_groups_per_class(self, name: str) -> np.ndarray:
        """Effective number of groups with rows in the denominator of each class's metric ``(C,)``."""
        plain = self.count_by_group(np.ones(len(self.y_true)))
        weights, sizes = (sum(counts[kind] for kind in DENOMINATORS[name]) for counts in (self.group_counts, plain))
        return np.atleast_1d(effective_groups(weights, sizes))

    @cached_property
    def counts(self) -> dict[str, np.ndarray]:
        """Weighted hits, predicted and actual classes in each draw, ``(resamples, C)`` each."""
        return {kind: self.drawn @ rows for kind, rows in self.group_counts.items()}

    @cached_property
    def group_counts(self) -> dict[str, csr_matrix]:
        """Weighted hits, predicted and actual classes in each group, ``(G, C)`` each."""
        return self.count_by_group(self.weights)

    def count_by_group(self, weights: np.ndarray) -> dict[str, csr_matrix]:
        y_pred = predicted_classes(self.y_true, self.probabilities)
        actual, predicted = (self.one_hot(classes) for classes in (self.y_true, y_pred))
        number = len(self.y_true)
        member = csr_matrix((weights, (self.group, np.arange(number))), shape=(self.drawn.shape[1], number))
        counted = {"hits": actual.multiply(predicted), "predicted": predicted, "actual": actual}
        return {kind: member @ rows for kind, rows in counted.items()}

    def one_hot(self, classes: np.ndarray) -> csr_matrix:
        """Classes of rows as ones ``(n, C)``; unknown ones are left out."""
        if classes.ndim == 2:
            return csr_matrix(classes[:, : self.num_classes].astype(float))
        rows = np.flatnonzero(classes != UNKNOWN)
        return csr_matrix((np.ones(len(rows)), (rows, classes[rows])), shape=(len(classes), self.num_classes))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Weighted sum of a value of each row in each draw ``(resamples,)``."""
        return self.drawn @ np.bincount(self.group, self.weights * values)

    def ranking_metric(self, name: str) -> np.ndarray:
        """Mean over the classes of a ranking metric, in each draw."""
        area = {"roc_auc": roc_areas, "average_precision": average_precisions}[name]
        drawn = self.drawn[:RANKING_RESAMPLES]
        block = max(1, MAX_CELLS // len(self.y_true))
        return np.concatenate([self.mean_area(drawn[i : i + block], area) for i in range(0, len(drawn), block)])

    def mean_area(self, drawn: np.ndarray, area: Callable) -> np.ndarray:
        weights = drawn[:, self.group] * self.weights
        total, number = np.zeros(len(drawn)), np.zeros(len(drawn))
        for values in self.class_areas(weights, area):
            defined = ~np.isnan(values)
            total[defined] += values[defined]
            number += defined
        return np.divide(total, number, out=np.full(len(drawn), np.nan), where=number > 0)

    def class_areas(self, weights: np.ndarray, area: Callable) -> Iterator[np.ndarray]:
        """The area of each class against the rest under row weights ``(draws, n)``; NaN without both kinds of rows."""
        for number in known_classes(self.y_true):
            order = np.argsort(-self.probabilities[:, number], kind="stable")
            ranked = self.probabilities[order, number]
            starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # of ties
            positive = has_class(self.y_true, number)[order]
            ordered = weights[:, order]
            positives = np.add.reduceat(ordered * positive, starts, axis=1)
            negatives = np.add.reduceat(ordered * ~positive, starts, axis=1)
            yield area(positives, negatives)


def divide_or_zero(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Quotients, 0 where the total is 0."""
    return np.divide(part, total, out=np.zeros(len(part)), where=total > 0)


def roc_areas(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Area under the ROC curve from the weights at each probability, falling ``(draws, P)``; ties count half."""
    below = negatives.sum(axis=1, keepdims=True) - negatives.cumsum(axis=1) + negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.divide((positives * below).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def average_precisions(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Average precision from the weights at each probability, falling ``(draws, P)``."""
    hits = positives.cumsum(axis=1)
    retrieved = hits + negatives.cumsum(axis=1)
    precision = np.divide(hits, retrieved, out=np.zeros_like(hits), where=retrieved > 0)
    defined = (hits[:, -1] > 0) & (retrieved[:, -1] > hits[:, -1])
    total = (precision * positives).sum(axis=1)
    return np.divide(total, hits[:, -1], out=np.full(len(total), np.nan), where=defined)
