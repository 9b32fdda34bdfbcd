"""The probability from which each of several labels is answered, chosen on validation rows."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import precision_recall_curve

from models.decisions import CUT

MIN_POSITIVES = 20
"""Validation rows of a class that a threshold of its own needs; rarer classes share one."""
LEAST, MOST = 0.01, 0.99


def fit_label_thresholds(probabilities: np.ndarray, sets: np.ndarray, weights: np.ndarray | None = None) -> list[float]:
    """Thresholds with the highest F1 on validation rows (Lipton et al. 2014).

    Classes with at least `MIN_POSITIVES` rows, and as many without, get the threshold of their own F1. All others share
    the threshold of the highest micro-averaged F1.

    Args:
        probabilities: ``(n, C)``.
        sets: sets of classes ``(n, C)`` or ``(n, C + 1)``, see `app.evaluation.metrics.METRICS`.
        weights: weight of each row ``(n,)``, above 0; ``None`` for equal weights.

    Returns:
        the threshold of each class, from `LEAST` to `MOST`.
    """
    num_classes = probabilities.shape[1]
    sets = sets[:, :num_classes]
    row_weights = np.ones(len(sets)) if weights is None else weights
    shared = best_threshold(probabilities.ravel(), sets.ravel(), np.repeat(row_weights, num_classes))
    positives = sets.sum(axis=0)
    has_own = np.minimum(positives, len(sets) - positives) >= MIN_POSITIVES
    return [
        best_threshold(probabilities[:, c], sets[:, c], row_weights) if has_own[c] else shared
        for c in range(num_classes)
    ]


def best_threshold(probabilities: np.ndarray, is_positive: np.ndarray, weights: np.ndarray) -> float:
    """The threshold with the highest F1, halfway between the last answered row and the next one; `CUT` by default."""
    if not is_positive.any():
        return CUT
    precision, recall, values = precision_recall_curve(is_positive, probabilities, sample_weight=weights)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)[:-1]
    best = int(np.flatnonzero(f1 == f1.max())[-1])
    below = values[best - 1] if best else 0.0
    return float(np.clip((values[best] + below) / 2, LEAST, MOST))
