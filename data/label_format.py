"""Label formats: one class a row, several classes, or the answers of several annotators."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, Protocol

import numpy as np

from data.cells import cell_text, is_nested
from data.errors import UserError
from data.labels import UNKNOWN, normalize_label
from data.messages import quote

LabelType = Literal["single", "multi", "annotators"]


class HasLabelFormat(Protocol):
    """Data settings or a model configuration."""

    label_type: LabelType
    label_separator: str


@dataclass(frozen=True)
class LabelFormat:
    """How a label is written and what it means.

    Args:
        type: ``single``: one class. ``multi``: any number of classes, all of them correct (multi-label).
            ``annotators``: the answers of several people, who may disagree.
        separator: separates the names in one label.
    """

    type: LabelType = "single"
    separator: str = "|"

    @classmethod
    def of(cls, settings: HasLabelFormat) -> LabelFormat:
        return cls(settings.label_type, settings.label_separator)

    def parse(self, cell, class_names: list[str] | None, normalize: bool) -> str | None:
        """Read a cell of the label column as one string; ``None`` if it is missing.

        A ``multi`` label without classes is ``""``; tables write it as an empty list, or as the separator alone. A list
        of missing names is a missing label.

        Args:
            cell: a name, or a list of names.
            class_names: names of the classes if the cell holds class indices, as `datasets.ClassLabel` does.
            normalize: apply `normalize_label`.

        Raises:
            UserError: a type that is not a label, or a name that contains the separator.
        """
        if self.type == "single":
            return parse_class_name(cell, class_names, normalize)
        if isinstance(cell, str):
            values = cell.split(self.separator) if cell.strip() or cell == self.separator else None
        else:
            values = list(cell) if isinstance(cell, list | tuple | np.ndarray) else cell if cell is None else [cell]
        if values is None:
            return None
        found = [parse_class_name(value, class_names, normalize) for value in values]
        if ambiguous := [name for name in found if name and self.separator in name]:
            raise UserError(
                f"The label {quote(ambiguous[0])} holds the separator {self.separator!r}; rename it, or train with "
                "another --data.label_separator."
            )
        says_none = isinstance(cell, str) or not found
        if not any(found) and (self.type == "annotators" or not says_none):
            return None
        return self.join(name for name in found if name)

    def names(self, label: str) -> list[str]:
        """Names in a label; an empty list for the empty label, to which no class applies."""
        if self.type == "single":
            return [label]
        return [name for name in label.split(self.separator) if name]

    def join(self, names: Iterable[str]) -> str:
        """Write names as one label: sorted and unique for ``multi``, in the given order for ``annotators``."""
        return self.separator.join(sorted(set(names)) if self.type == "multi" else names)

    def count(self, labels: Iterable[str]) -> Counter[str]:
        """Occurrences of each name in the labels."""
        return Counter(name for label in labels for name in self.names(label))

    def main_names(self, label: str, known: Container[str] | None = None) -> list[str]:
        """Names that a label stands for: all of them, or the most frequent answer of the annotators.

        Args:
            known: ignore other names.
        """
        names = [name for name in self.names(label) if known is None or name in known]
        if self.type != "annotators" or not names:
            return names
        return [min(Counter(names).items(), key=lambda item: (-item[1], item[0]))[0]]

    def majority(
        self, labels: Iterable[str], known: Sequence[str], weights: Iterable[float] | None = None
    ) -> list[str]:
        """The most frequent known name, or for ``multi`` the most frequent set of known names.

        Args:
            weights: of the rows; 1 by default.
        """
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

    def is_trainable(self, label: str, known: set[str]) -> bool:
        """Whether a label holds a known name, or is empty."""
        return not label or any(name in known for name in self.names(label))

    def encode(self, labels: Sequence[str], label2id: dict[str, int]) -> np.ndarray:
        """Encode n labels for C known classes.

        Returns:
            ``single``: class indices ``(n,)``, `UNKNOWN` for unknown labels. ``multi``: multi-hot ``(n, C + 1)``; the
            last column is 1 if the label holds unknown names. ``annotators``: `annotator_score` of each class
            ``(n, C)``, in [0, 1].
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


def parse_class_name(value, class_names: list[str] | None, normalize: bool) -> str | None:
    """Name of a class; ``None`` if it is null, empty, or the index -1, which `datasets` uses for "no label".

    Raises:
        UserError: a list, an object or bytes.
    """
    if class_names is not None and value is not None:
        value = class_names[value] if value >= 0 else None
    if is_nested(value):
        raise UserError(
            f"Labels must be strings, numbers or booleans, got {quote(value)}; write the names of the classes. For "
            "lists of names train with --data.label_type multi or annotators."
        )
    label = cell_text(value) or ""
    return (normalize_label(label) if normalize else label.strip()) or None


def annotator_score(count: int, annotators: int) -> float:
    """VQA accuracy of an answer that ``count`` of the annotators gave (Antol et al. 2015, section 5).

    min(matches / 3, 1) against the other annotators, averaged over leaving each annotator out. With fewer than four
    annotators, all others must agree for a score of 1.
    """
    if annotators == 1:
        return 1.0
    needed = min(3, annotators - 1)
    with_others = count * min((count - 1) / needed, 1) + (annotators - count) * min(count / needed, 1)
    return with_others / annotators
