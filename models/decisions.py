"""From logits to probabilities, from probabilities to predicted classes and their confidence."""

from __future__ import annotations

import numpy as np
from torch import Tensor

CUT = 0.5
"""Threshold on the probability of each class for ``multi``."""


def to_probabilities(logits: Tensor, label_type: str) -> Tensor:
    """Probabilities ``(B, C)`` in float32: softmax over the classes, or a sigmoid of each for ``multi``."""
    logits = logits.float()
    return logits.sigmoid() if label_type == "multi" else logits.softmax(dim=-1)


def give_answers(probabilities: np.ndarray, label_type: str) -> np.ndarray:
    """Predicted classes as a mask ``(n, C)``: the most probable class, or each class above `CUT` for ``multi``.

    Shape:
        - probabilities: ``(n, C)``
    """
    if label_type == "multi":
        return probabilities >= CUT
    answers = np.zeros(probabilities.shape, dtype=bool)
    answers[np.arange(len(answers)), probabilities.argmax(axis=1)] = True
    return answers


def answered(probabilities: np.ndarray, label_type: str) -> list[int]:
    """Indices of the predicted classes of one row with probabilities ``(C,)``."""
    return np.flatnonzero(give_answers(probabilities[None], label_type)[0]).tolist()


def confidence(probabilities: np.ndarray, label_type: str) -> np.ndarray:
    """Probability of the prediction ``(n,)``; for ``multi`` of the whole set of classes, assumed independent.

    Shape:
        - probabilities: ``(n, C)``
    """
    if label_type == "multi":
        return np.maximum(probabilities, 1 - probabilities).prod(axis=1)
    return probabilities.max(axis=1)
