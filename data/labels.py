"""Label names: normalization and the vocabulary."""

import re
from collections import Counter
from collections.abc import Iterable

from data.errors import UserError
from data.messages import enumerate_names

UNKNOWN = -100
"""Class index of a held-out label outside the vocabulary: no loss (torch's ``ignore_index``), always a wrong answer."""


class NoLabelsError(UserError):
    """Missing labels, or no label column. Such rows can be predicted, but not trained on or scored."""


def normalize_label(label: str) -> str:
    """Fold case, strip spaces at the ends, and collapse spaces between words."""
    return re.sub(r"\s+", " ", label).strip().casefold()


def build_vocabulary(counts: Counter[str], top_k: int | None = None) -> list[str]:
    """Sorted label names, by value if all are integers; with ``top_k`` only the most frequent ones.

    Raises:
        UserError: fewer than two labels.
    """
    if len(counts) < 2:
        raise UserError(
            f"The training rows have only one class, [{enumerate_names(counts)}]: there is nothing to learn. Check the "
            "label column."
        )
    if top_k == 1:
        raise UserError("--data.top_k_labels 1 leaves one class: there is nothing to learn. Keep at least 2.")
    kept = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top_k]]
    if all(re.fullmatch(r"-?\d+", name) for name in kept):
        return sorted(kept, key=int)
    return sorted(kept)


def similar_labels(names: Iterable[str]) -> list[list[str]]:
    """Groups of labels that differ only by case or spaces, probably one class in several spellings."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(normalize_label(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
