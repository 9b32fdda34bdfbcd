"""From logits to probabilities, from probabilities to predicted classes and their confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

CUT = 0.5
"""Probability from which a class is answered for ``multi``, unless the model has thresholds of its own."""
Thresholds = Sequence[float] | np.ndarray | None
"""For ``multi``, the probability in (0, 1) from which each of the C classes is answered; ``None`` is `CUT` for all."""


def to_probabilities(logits: Tensor, label_type: str) -> Tensor:
    """Probabilities ``(B, C)`` in float32: softmax over the classes, or a sigmoid of each for ``multi``."""
    logits = logits.float()
    return logits.sigmoid() if label_type == "multi" else logits.softmax(dim=-1)


def give_answers(probabilities: np.ndarray, label_type: str, thresholds: Thresholds = None) -> np.ndarray:
    """Predicted classes as a mask ``(n, C)``: the most probable class; for ``multi`` each that reaches its threshold.

    Shape:
        - probabilities: ``(n, C)``
    """
    if label_type == "multi":
        return probabilities >= (CUT if thresholds is None else np.asarray(thresholds, dtype=np.float32))
    answers = np.zeros(probabilities.shape, dtype=bool)
    answers[np.arange(len(answers)), probabilities.argmax(axis=1)] = True
    return answers


def answered(probabilities: np.ndarray, label_type: str, thresholds: Thresholds = None) -> list[int]:
    """Indices of the predicted classes of one row with probabilities ``(C,)``."""
    return np.flatnonzero(give_answers(probabilities[None], label_type, thresholds)[0]).tolist()


def center(probabilities: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Move the threshold of each class to `CUT` by an increasing, piecewise linear map of [0, 1] to itself.

    Metrics that count answers at `CUT` then use the thresholds; metrics that rank the rows of a class do not change.

    Shape:
        - probabilities: ``(n, C)``
    """
    if thresholds is None:
        return probabilities
    cut = np.asarray(thresholds, dtype=np.float32)
    below = np.minimum(CUT * probabilities / cut, np.nextafter(np.float32(CUT), 0))  # not CUT by rounding
    return np.where(probabilities >= cut, CUT + (1 - CUT) * (probabilities - cut) / (1 - cut), below)


def confidence(probabilities: np.ndarray, label_type: str, thresholds: Thresholds = None) -> np.ndarray:
    """Probability of the prediction ``(n,)``; for ``multi`` of the whole set of classes, assumed independent.

    Shape:
        - probabilities: ``(n, C)``
    """
    if label_type == "multi":
        answers = give_answers(probabilities, label_type, thresholds)
        return np.where(answers, probabilities, 1 - probabilities).prod(axis=1)
    return probabilities.max(axis=1)
