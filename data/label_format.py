"""What the label of a row may hold: one class, several, or what several annotators answered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, Protocol

import numpy as np

from data.labels import UNKNOWN

LabelType = Literal["single", "multi", "annotators"]


class HasLabelFormat(Protocol):
    """A data section or a model's configuration."""

    label_type: LabelType
    label_separator: str


@dataclass(frozen=True)
class LabelFormat:
    """How a label is written and what it means.

    Args:
        type: ``single``: one class; ``multi``: any number of classes, all of them right; ``annotators``: the answers of
            several people, of whom some may disagree.
        separator: between the names of one label.
    """

    type: LabelType = "single"
    separator: str = "|"

    @classmethod
    def of(cls, settings: HasLabelFormat) -> LabelFormat:
        return cls(settings.label_type, settings.label_separator)

    def names(self, label: str) -> list[str]:
        """The names a label holds; none for the empty label, which says that no class applies."""
        if self.type == "single":
            return [label]
        return [name for name in label.split(self.separator) if name]

    def join(self, names: Iterable[str]) -> str:
        """A label of these names; classes in order and each once, annotators' answers as they came."""
        return self.separator.join(sorted(set(names)) if self.type == "multi" else names)

    def count(self, labels: Iterable[str]) -> Counter[str]:
        """How often each name stands in the labels."""
        return Counter(name for label in labels for name in self.names(label))

    def main(self, label: str, known: Container[str] | None = None) -> list[str]:
        """The names a label stands for, of those ``known`` where given: all of them, or the most frequent of the
        annotators' answers."""
        names = [name for name in self.names(label) if known is None or name in known]
        if self.type != "annotators" or not names:
            return names
        return [min(Counter(names).items(), key=lambda item: (-item[1], item[0]))[0]]

    def majority(
        self, labels: Iterable[str], known: Sequence[str], weights: Iterable[float] | None = None
    ) -> list[str]:
        """The most frequent answer, of known names: the most frequent name, or for ``multi`` the most frequent set; by
        what rows count where ``weights`` are given."""
        totals: dict[tuple[str, ...], float] = defaultdict(float)
        for label, weight in zip(labels, repeat(1.0) if weights is None else weights, strict=False):
            names = self.names(label)
            answers: list[tuple[str, ...]] = [(name,) for name in names]
            if self.type == "multi":
                answers = [tuple(sorted(set(names) & set(known)))]
            for answer in answers:
                totals[answer] += weight
        candidates = sorted(totals, reverse=True) if self.type == "multi" else [(name,) for name in known]
        majority = max(candidates, key=lambda answer: totals[answer])
        return list(majority)

    def known(self, label: str, names: set[str]) -> bool:
        """Whether a label teaches anything about these classes."""
        return not label or any(name in names for name in self.names(label))

    def encode(self, labels: Sequence[str], label2id: dict[str, int]) -> np.ndarray:
        """Labels as numbers, for C known classes.

        Returns:
            ``single``: class numbers ``(n,)``, `UNKNOWN` for others. ``multi``: ``(n, C + 1)``, 1 for each class that
            applies, in the last column 1 where some are not known. ``annotators``: the score in [0, 1] that each class
            would earn as an answer ``(n, C)``, see `annotator_score`.
        """
        if self.type == "single":
            return np.array([label2id.get(label, UNKNOWN) for label in labels], dtype=np.int64)
        number = len(label2id)
        values = np.zeros((len(labels), number + (self.type == "multi")), dtype=np.float32)
        for row, label in enumerate(labels):
            counts = Counter(self.names(label))
            for name, count in counts.items():
                if self.type == "multi":
                    values[row, label2id.get(name, number)] = 1
                elif name in label2id:
                    values[row, label2id[name]] = annotator_score(count, counts.total())
        return values


SINGLE = LabelFormat()
"""One class a row."""


def annotator_score(count: int, annotators: int) -> float:
    """What an answer earns that ``count`` of the annotators gave (Antol et al. 2015, section 5, VQA accuracy).

    Whole where at least three of the others gave it too, averaged over who is left out; with fewer than four
    annotators, where all the others did.
    """
    if annotators == 1:
        return 1.0
    needed = min(3, annotators - 1)
    with_others = count * min((count - 1) / needed, 1) + (annotators - count) * min(count / needed, 1)
    return with_others / annotators
