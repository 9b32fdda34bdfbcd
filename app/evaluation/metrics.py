"""Metrics through `evaluate`, computed offline by scikit-learn, with bootstrap intervals over groups of rows.

Each metric stands here twice: as scikit-learn computes it, for its value, and as a function of how often each row was
drawn, for its interval, so that a thousand draws cost a few products of matrices. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import datasets
import evaluate
import numpy as np
from scipy.sparse import csr_matrix
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from app.evaluation.bootstrap import Value, count_of, draw_groups, with_interval
from data import UNKNOWN
from models.decisions import give_answers

TOP_K = 5
"""Answers among which the right one is looked for; fewer where there are not as many labels."""
RANKING_RESAMPLES = 200
"""Draws for the intervals of the metrics that rank all rows by class; the others have a thousand."""
SHARES = {"precision": ("guesses",), "recall": ("truths",), "f1": ("guesses", "truths")}
"""What the right answers of a class are counted against."""
CELLS = 5_000_000
"""Numbers that are in memory at a time while draws are weighed."""


def by_class(metric: Callable, truth: np.ndarray, scores: np.ndarray, weights: np.ndarray | None) -> float:
    """Mean of a ranking metric over the classes that some rows have and others do not; one class against the rest."""
    there = [is_class(truth, c) for c in range(scores.shape[1])]
    values = [metric(t, scores[:, c], sample_weight=weights) for c, t in enumerate(there) if 0 < t.sum() < len(t)]
    return float(np.mean(values)) if values else float("nan")


def is_class(truth: np.ndarray, number: int) -> np.ndarray:
    """Which rows are of a class ``(n,)``."""
    return truth == number if truth.ndim == 1 else truth[:, number] == 1


def in_top_k(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Whether the true class of each row is among the most probable ``TOP_K``; ties go to the lower number."""
    return (np.argsort(-scores, axis=1, kind="stable")[:, :TOP_K] == truth[:, None]).any(axis=1)


def known(truth: np.ndarray) -> list[int]:
    """The classes that occur, of those that the model knows."""
    if truth.ndim == 2:
        return np.flatnonzero(truth[:, :-1].any(axis=0)).tolist()
    return sorted(set(truth.tolist()) - {UNKNOWN})


def answers(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Answers in the form of the truth: class numbers ``(n,)``, or sets of classes ``(n, C + 1)``."""
    if truth.ndim == 1:
        return scores.argmax(axis=1)
    return np.pad(give_answers(scores, "multi"), ((0, 0), (0, 1))).astype(int)


def f1(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray | None, labels, average: str) -> float:
    guesses = answers(truth, scores)
    return f1_score(truth, guesses, labels=labels, average=average, sample_weight=weights, zero_division=0)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]] = {
    "accuracy": lambda truth, scores, weights: accuracy_score(truth, answers(truth, scores), sample_weight=weights),
    "balanced_accuracy": lambda truth, scores, weights: recall_score(
        truth, answers(truth, scores), labels=known(truth), average="macro", sample_weight=weights, zero_division=0
    ),
    "micro_f1": lambda truth, scores, weights: f1(truth, scores, weights, None, "micro"),
    "macro_f1": lambda truth, scores, weights: f1(truth, scores, weights, known(truth), "macro"),
    "weighted_f1": lambda truth, scores, weights: f1(
        truth, scores, weights, np.unique(truth) if truth.ndim == 1 else None, "weighted"
    ),
    "top_5_accuracy": lambda truth, scores, weights: np.average(in_top_k(truth, scores), weights=weights),
    "roc_auc": lambda truth, scores, weights: by_class(roc_auc_score, truth, scores, weights),
    "average_precision": lambda truth, scores, weights: by_class(average_precision_score, truth, scores, weights),
}
"""From true classes ``(n,)`` or sets of classes ``(n, C + 1)``, probabilities ``(n, C)`` and what rows count ``(n,)``,
``None`` where all count alike. A class of -100, or the last column of the sets, is none that the model knows: such a
row is wrong, and a negative example of every class. The accuracy of sets counts a row as right where the whole set
is."""


def defined(truth: np.ndarray, scores: np.ndarray) -> tuple[str, ...]:
    """Which of `METRICS` say something of one class a row, or of several."""
    if truth.ndim == 2:
        return ("accuracy", "micro_f1", "macro_f1", "weighted_f1", "roc_auc", "average_precision")
    return tuple(n for n in METRICS if n != "micro_f1" and (n != "top_5_accuracy" or scores.shape[1] > TOP_K))


class SklearnMetrics(evaluate.Metric):
    """One of `METRICS` as `evaluate` knows metrics; ``evaluate.load`` would fetch a script from the Hub."""

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


def score(
    scores: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray,
    resamples: int = 1000,
    names: Sequence[str] | None = None,
    weights: np.ndarray | None = None,
) -> dict[str, Value]:
    """Metrics with a 95 % percentile interval (Efron & Tibshirani 1993, section 13.3).

    Whole groups are drawn with replacement, since rows about one image are not independent.

    Args:
        scores: probabilities ``(n, C)``.
        truth: class numbers ``(n,)``, -100 for labels that are not among the C; or sets of classes ``(n, C + 1)``, in
            the last column 1 for such labels.
        groups: group of each row ``(n,)``, most often its image.
        names: which of `METRICS`; all that say something where not given.
        weights: what each row counts ``(n,)``, above 0; all alike where not given.

    Returns:
        metric → ``value``, ``low``, ``high``, each in [0, 1]; without those that the rows do not define (a ROC curve of
        one class), and without ``top_5_accuracy`` where there are no more than five classes.
    """
    values: dict[str, float] = {}
    for name in names or defined(truth, scores):
        metric = SklearnMetrics(config_name=name)
        values |= metric.compute(predictions=scores, references=truth, sample_weight=weights)
    draws = Draws(scores, truth, groups, resamples, weights)
    number = float(count_of(np.bincount(draws.group, draws.weights), np.bincount(draws.group)))
    return {
        name: with_interval(value, draws.metric(name), number) for name, value in values.items() if not np.isnan(value)
    }


class Draws:
    """The metrics of rows whose groups are drawn with replacement, many times.

    What counts rows by class adds up over groups (right answers, answers, truths): a draw is a sum of the counts of
    the groups drawn. What ranks rows is computed with the number of times each was drawn as its weight.

    Args:
        scores, truth, groups, weights: see `score`.
        resamples: how many draws.
    """

    def __init__(
        self,
        scores: np.ndarray,
        truth: np.ndarray,
        groups: np.ndarray,
        resamples: int,
        weights: np.ndarray | None = None,
    ):
        self.scores, self.truth = scores, truth
        self.weights = np.ones(len(truth)) if weights is None else weights
        _, self.group = np.unique(groups, return_inverse=True)
        self.drawn = draw_groups(self.group.max() + 1, resamples)
        self.num_classes = scores.shape[1]

    def metric(self, name: str) -> np.ndarray:
        """One of `METRICS` in each draw ``(resamples,)``; of those that rank, in the first `RANKING_RESAMPLES`."""
        if name in ("roc_auc", "average_precision"):
            return self.ranking(name)
        rows = self.sums(np.ones(len(self.truth)))
        if name == "accuracy":
            right = answers(self.truth, self.scores) == self.truth
            return self.sums((right if right.ndim == 1 else right.all(axis=1)).astype(float)) / rows
        if name == "top_5_accuracy":
            return self.sums(in_top_k(self.truth, self.scores).astype(float)) / rows
        truths, occurs = self.counts["truths"], self.counts["truths"] > 0
        labels = rows if self.truth.ndim == 1 else truths.sum(axis=1) + self.sums(self.truth[:, -1].astype(float))
        if name == "micro_f1":
            hits, guesses = self.counts["hits"].sum(axis=1), self.counts["guesses"].sum(axis=1)
            return share(2 * hits, guesses + labels)
        if name == "weighted_f1":
            return share(np.where(occurs, self.per_class("f1") * truths, 0).sum(axis=1), labels)
        values = self.per_class({"balanced_accuracy": "recall", "macro_f1": "f1"}[name])
        return share(np.where(occurs, values, 0).sum(axis=1), occurs.sum(axis=1))

    def per_class(self, name: str) -> np.ndarray:
        """``precision``, ``recall`` or ``f1`` of each class in each draw ``(resamples, C)``, NaN where undefined."""
        hits, total = self.counts["hits"], self.totals(name)
        return np.divide((1 + (name == "f1")) * hits, total, out=np.full(hits.shape, np.nan), where=total > 0)

    def totals(self, name: str) -> np.ndarray:
        """What the hits of each class are a share of, in each draw ``(resamples, C)``."""
        return np.sum([self.counts[kind] for kind in SHARES[name]], axis=0)

    def groups_with(self, name: str) -> np.ndarray:
        """As how many groups those count that have a say in a share of each class ``(C,)``."""
        plain = self.in_groups(np.ones(len(self.truth)))
        weighed, sizes = (sum(counts[kind] for kind in SHARES[name]) for counts in (self.by_group, plain))
        return np.atleast_1d(count_of(weighed, sizes))

    @cached_property
    def counts(self) -> dict[str, np.ndarray]:
        """Right answers, answers and truths by class in each draw, ``(resamples, C)`` each."""
        return {kind: self.drawn @ rows for kind, rows in self.by_group.items()}

    @cached_property
    def by_group(self) -> dict[str, csr_matrix]:
        """The same in each group, ``(groups, C)`` each."""
        return self.in_groups(self.weights)

    def in_groups(self, weights: np.ndarray) -> dict[str, csr_matrix]:
        truth, guesses = (self.as_sets(labels) for labels in (self.truth, answers(self.truth, self.scores)))
        number = len(self.truth)
        member = csr_matrix((weights, (self.group, np.arange(number))), shape=(self.drawn.shape[1], number))
        chosen = {"hits": truth.multiply(guesses), "guesses": guesses, "truths": truth}
        return {kind: member @ rows for kind, rows in chosen.items()}

    def as_sets(self, labels: np.ndarray) -> csr_matrix:
        """Classes of rows as 1 where they are ``(n, C)``; those that are not known are left out."""
        if labels.ndim == 2:
            return csr_matrix(labels[:, : self.num_classes].astype(float))
        rows = np.flatnonzero(labels != UNKNOWN)
        return csr_matrix((np.ones(len(rows)), (rows, labels[rows])), shape=(len(labels), self.num_classes))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum over the rows of each draw of a number each row has, times what it counts ``(resamples,)``."""
        return self.drawn @ np.bincount(self.group, self.weights * values)

    def ranking(self, name: str) -> np.ndarray:
        """Mean over the classes of the area under the ROC curve, or of the average precision, in each draw."""
        area = {"roc_auc": roc_areas, "average_precision": average_precisions}[name]
        drawn = self.drawn[:RANKING_RESAMPLES]
        block = max(1, CELLS // len(self.truth))
        return np.concatenate([self.rank(drawn[i : i + block], area) for i in range(0, len(drawn), block)])

    def rank(self, drawn: np.ndarray, area: Callable) -> np.ndarray:
        weights = drawn[:, self.group] * self.weights
        total, defined = np.zeros(len(drawn)), np.zeros(len(drawn))
        for values in self.areas(weights, area):
            there = ~np.isnan(values)
            total[there] += values[there]
            defined += there
        return np.divide(total, defined, out=np.full(len(drawn), np.nan), where=defined > 0)

    def areas(self, weights: np.ndarray, area: Callable) -> Iterator[np.ndarray]:
        """Of each class against the rest, with rows weighed ``(draws, n)``: NaN where a draw has but one of them."""
        for number in known(self.truth):
            order = np.argsort(-self.scores[:, number], kind="stable")
            ranked = self.scores[order, number]
            starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # of rows that tie
            positive = is_class(self.truth, number)[order]
            weighed = weights[:, order]
            positives = np.add.reduceat(weighed * positive, starts, axis=1)
            negatives = np.add.reduceat(weighed * ~positive, starts, axis=1)
            yield area(positives, negatives)


def share(part: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Quotients, 0 of nothing."""
    return np.divide(part, of, out=np.zeros(len(part)), where=of > 0)


def roc_areas(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Area under the ROC curve from weights by score, falling ``(draws, scores)``; ties count half."""
    below = negatives.sum(axis=1, keepdims=True) - negatives.cumsum(axis=1) + negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.divide((positives * below).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def average_precisions(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Average precision from weights by score, falling ``(draws, scores)``: the precision at each step of recall."""
    hits = positives.cumsum(axis=1)
    found = hits + negatives.cumsum(axis=1)
    precision = np.divide(hits, found, out=np.zeros_like(hits), where=found > 0)
    defined = (hits[:, -1] > 0) & (found[:, -1] > hits[:, -1])
    total = (precision * positives).sum(axis=1)
    return np.divide(total, hits[:, -1], out=np.full(len(total), np.nan), where=defined)


def class_table(
    scores: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray,
    resamples: int = 1000,
    weights: np.ndarray | None = None,
) -> list[dict]:
    """``precision``, ``recall`` and ``f1`` of each class with intervals, and ``rows``, in the order of the classes."""
    names = ("precision", "recall", "f1")
    classes = np.arange(scores.shape[1])
    guesses = answers(truth, scores)
    *values, _ = precision_recall_fscore_support(truth, guesses, labels=classes, sample_weight=weights, zero_division=0)
    draws = Draws(scores, truth, groups, resamples, weights)
    table: list[dict] = [{"rows": int(is_class(truth, number).sum())} for number in range(scores.shape[1])]
    for name, value in zip(names, values, strict=True):
        drawn, groups_with = draws.per_class(name), draws.groups_with(name)
        for c, line in enumerate(table):
            line[name] = with_interval(value[c], drawn[:, c], float(groups_with[c]))
    return table
