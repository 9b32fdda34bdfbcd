"""What a vector of probabilities answers, and how confident the answer is."""

from __future__ import annotations

import numpy as np

CUT = 0.5
"""Probability from which a class applies, where each has its own."""


def give_answers(probabilities: np.ndarray, label_type: str) -> np.ndarray:
    """Which classes are answered ``(n, C)``: the most probable one, or each that applies."""
    if label_type == "multi":
        return probabilities >= CUT
    answers = np.zeros(probabilities.shape, dtype=bool)
    answers[np.arange(len(answers)), probabilities.argmax(axis=1)] = True
    return answers


def answered(probabilities: np.ndarray, label_type: str) -> list[int]:
    """Numbers of the classes that the probabilities ``(C,)`` of one row answer."""
    return np.flatnonzero(give_answers(probabilities[None], label_type)[0]).tolist()


def confidence(probabilities: np.ndarray, label_type: str) -> np.ndarray:
    """How probable the answer is, for ``multi`` the whole set of classes ``(n,)``."""
    if label_type == "multi":
        return np.maximum(probabilities, 1 - probabilities).prod(axis=1)
    return probabilities.max(axis=1)
