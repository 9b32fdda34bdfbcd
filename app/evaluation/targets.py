"""What is right, for each type of label: which answers probabilities give, whether they are, how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data import UNKNOWN, LabelFormat
from models.decisions import give_answers


@dataclass
class Truth:
    """The labels of n rows.

    Args:
        label_type: see `data.LabelFormat`.
        values: the labels as it encodes them.
        most_given: of ``annotators``, the known class that most of them gave ``(n,)``; scores cannot tell, since what
            four of ten people said earns as much as what six said.
        weights: what each row counts ``(n,)``, above 0; ``None`` where all count alike.
    """

    label_type: str
    values: np.ndarray
    most_given: np.ndarray | None = None
    weights: np.ndarray | None = None

    @classmethod
    def of(
        cls, labels: Sequence[str], label2id: dict[str, int], form: LabelFormat, weights: np.ndarray | None = None
    ) -> Truth:
        most_given = None
        if form.type == "annotators":
            most = [form.main_names(label, label2id) for label in labels]
            most_given = np.array([label2id[name[0]] if name else UNKNOWN for name in most], dtype=np.int64)
        return cls(form.type, form.encode(labels, label2id), most_given, weights)

    def __len__(self) -> int:
        return len(self.values)

    def select(self, rows: np.ndarray) -> Truth:
        """Some of the rows, by number or as a mask."""
        given, weights = (None if of_rows is None else of_rows[rows] for of_rows in (self.most_given, self.weights))
        return Truth(self.label_type, self.values[rows], given, weights)

    def mean(self, values: np.ndarray) -> float:
        """Mean of what each row has ``(n,)``, by what it counts."""
        return float(np.average(values, weights=self.weights))

    def right(self, probabilities: np.ndarray) -> np.ndarray:
        """How right each answer is, in [0, 1] ``(n,)``: the class, the whole set, or what annotators' answers earn."""
        best = probabilities.argmax(axis=1)
        if self.label_type == "single":
            return (best == self.values).astype(float)
        if self.label_type == "annotators":
            return self.values[np.arange(len(best)), best].astype(float)
        answers = np.pad(give_answers(probabilities, "multi"), ((0, 0), (0, 1)))  # none of those that are not known
        return (answers == self.values).all(axis=1).astype(float)

    def best(self) -> np.ndarray:
        """How right the best possible answer would be ``(n,)``; less than 1 where a label is not known."""
        if self.label_type == "single":
            return (self.values != UNKNOWN).astype(float)
        if self.label_type == "annotators":
            return self.values.max(axis=1).astype(float)
        return 1.0 - self.values[:, -1]

    def classes(self) -> np.ndarray:
        """What metrics that count classes compare with: class numbers ``(n,)``, the annotators' most frequent answer,
        or for ``multi`` the sets ``(n, C + 1)``."""
        return self.values.astype(np.int64) if self.most_given is None else self.most_given

    def loss(self, probabilities: np.ndarray) -> np.ndarray:
        """Cross-entropy of each row, over classes on average for ``multi`` ``(n,)``; NaN where no label is known."""
        likely = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))
        if self.label_type == "multi":
            target = self.values[:, :-1]
            unlikely = np.log(np.maximum(1 - probabilities.astype(np.float64), 1e-12))
            return -(target * likely + (1 - target) * unlikely).mean(axis=1)
        if self.label_type == "single":
            return np.where(self.values == UNKNOWN, np.nan, -likely[np.arange(len(likely)), np.maximum(self.values, 0)])
        total = self.values.sum(axis=1)
        weighed = -(self.values * likely).sum(axis=1)
        return np.divide(weighed, total, out=np.full(len(total), np.nan), where=total > 0)
