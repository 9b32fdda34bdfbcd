"""Labels as names: normalisation, the vocabulary built on training rows, and what it covers."""

import re
from collections import Counter
from collections.abc import Iterable

from data.errors import UserError
from data.messages import enumerate_names

UNKNOWN = -100
"""Label id of a held-out row whose label the model does not know: no loss (torch's ``ignore_index``), always wrong."""


class NoLabelsError(UserError):
    """Rows without a label, or a table without the column: they can be answered, but not learnt from or scored."""


def normalize_label(label: str) -> str:
    """Lower case, no spaces at the ends, single spaces between words."""
    return re.sub(r"\s+", " ", label).strip().casefold()


def build_vocabulary(counts: Counter[str], top_k: int | None = None) -> list[str]:
    """Label names in order: numbers by value, other names by alphabet; with ``top_k`` the most frequent ones.

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
    """Groups of labels that differ by case or spaces alone, most likely one class written in several ways."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(normalize_label(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
