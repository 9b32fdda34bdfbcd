"""Figures by case: the probabilities of the rows of a case are averaged to one answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from app.evaluation.baselines import Linear
from app.evaluation.predict import Predictions


def pool_predictions(predictions: Predictions, cases: np.ndarray) -> Predictions:
    """One row for each case: the mean of its rows' probabilities, weighted by the rows' weights.

    Args:
        cases: number of the case of each row ``(n,)``, as `data.groups.case_numbers` gives them.
    """
    targets, first = predictions.targets, first_rows(cases)
    pooled = targets.select(first)
    if targets.weights is not None:
        pooled = replace(pooled, weights=np.bincount(cases, targets.weights))
    probabilities = {name: pool(found, cases, targets.weights) for name, found in predictions.probabilities.items()}
    return replace(predictions, probabilities=probabilities, targets=pooled, kept={})


def pool_linear(linear: Linear, cases: np.ndarray, weights: np.ndarray | None) -> Linear:
    """The answers of linear classifiers, pooled alike."""
    return replace(
        linear, probabilities={name: pool(found, cases, weights) for name, found in linear.probabilities.items()}
    )


def first_rows(cases: np.ndarray) -> np.ndarray:
    """Index of the first row of each case."""
    return np.unique(cases, return_index=True)[1]


def pool(probabilities: np.ndarray, cases: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Weighted means ``(cases, C)`` of probabilities ``(n, C)``."""
    weights = np.ones(len(cases)) if weights is None else weights
    sums = np.zeros((cases.max() + 1, probabilities.shape[1]))
    np.add.at(sums, cases, probabilities * weights[:, None])
    return (sums / np.bincount(cases, weights)[:, None]).astype(np.float32)
