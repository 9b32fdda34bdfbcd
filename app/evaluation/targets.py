"""The labels of rows as targets: which answers are correct, and how probable they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data import UNKNOWN, LabelFormat
from models.decisions import give_answers


@dataclass
class Targets:
    """The labels of n rows.

    Attributes:
        label_type: see `data.LabelFormat`.
        values: the labels as `data.LabelFormat.encode` gives them.
        most_frequent: for ``annotators``, the known class that most annotators gave ``(n,)``. The encoded scores do not
            contain it: an answer of four of ten annotators scores as much as one of six.
        weights: weight of each row ``(n,)``, above 0; ``None`` for equal weights.
    """

    label_type: str
    values: np.ndarray
    most_frequent: np.ndarray | None = None
    weights: np.ndarray | None = None

    @classmethod
    def of(
        cls, labels: Sequence[str], label2id: dict[str, int], form: LabelFormat, weights: np.ndarray | None = None
    ) -> Targets:
        most_frequent = None
        if form.type == "annotators":
            most = [form.main_names(label, label2id) for label in labels]
            most_frequent = np.array([label2id[name[0]] if name else UNKNOWN for name in most], dtype=np.int64)
        return cls(form.type, form.encode(labels, label2id), most_frequent, weights)

    def __len__(self) -> int:
        return len(self.values)

    def select(self, rows: np.ndarray) -> Targets:
        """Some of the rows, given by number or as a mask."""
        optional = (None if array is None else array[rows] for array in (self.most_frequent, self.weights))
        return Targets(self.label_type, self.values[rows], *optional)

    def mean(self, values: np.ndarray) -> float:
        """Mean of a value of each row ``(n,)``, weighted by the rows' weights."""
        return float(np.average(values, weights=self.weights))

    def correctness(self, probabilities: np.ndarray) -> np.ndarray:
        """How correct each answer is, in [0, 1] ``(n,)``.

        1 or 0 for one label a row, 1 if the whole set of labels is correct for ``multi``, and the VQA accuracy for
        ``annotators``.
        """
        best = probabilities.argmax(axis=1)
        if self.label_type == "single":
            return (best == self.values).astype(float)
        if self.label_type == "annotators":
            return self.values[np.arange(len(best)), best].astype(float)
        answers = np.pad(give_answers(probabilities, "multi"), ((0, 0), (0, 1)))  # never an unknown label
        return (answers == self.values).all(axis=1).astype(float)

    def best_correctness(self) -> np.ndarray:
        """Correctness of the best possible answer ``(n,)``; below 1 if a label is unknown or annotators disagree."""
        if self.label_type == "single":
            return (self.values != UNKNOWN).astype(float)
        if self.label_type == "annotators":
            return self.values.max(axis=1).astype(float)
        return 1.0 - self.values[:, -1]

    def classes(self) -> np.ndarray:
        """The labels for metrics that count classes.

        Returns:
            class numbers ``(n,)``, for ``annotators`` of the most frequent answer; for ``multi`` sets ``(n, C + 1)``.
        """
        return self.values.astype(np.int64) if self.most_frequent is None else self.most_frequent

    def cross_entropy(self, probabilities: np.ndarray) -> np.ndarray:
        """Cross-entropy of each row ``(n,)``, for ``multi`` the mean over the classes; NaN if no label is known."""
        log_p = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))
        if self.label_type == "multi":
            target = self.values[:, :-1]
            log_not_p = np.log(np.maximum(1 - probabilities.astype(np.float64), 1e-12))
            return -(target * log_p + (1 - target) * log_not_p).mean(axis=1)
        if self.label_type == "single":
            return np.where(self.values == UNKNOWN, np.nan, -log_p[np.arange(len(log_p)), np.maximum(self.values, 0)])
        total = self.values.sum(axis=1)
        weighted = -(self.values * log_p).sum(axis=1)
        return np.divide(weighted, total, out=np.full(len(total), np.nan), where=total > 0)
