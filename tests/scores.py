"""Intervals, metrics and tables of classes from probabilities, true classes and groups of rows."""

from dataclasses import astuple

import numpy as np
import pytest

from app.evaluation import bootstrap, metric_draws, metrics
from app.evaluation.bootstrap import Resampler
from app.evaluation.figures import ClassFigures
from app.evaluation.interval import Interval, Scores


def mean_interval(values, groups, resamples: int = 1000, least: float = 0.0, weights=None) -> Interval:
    return bootstrap.mean_interval(values, Resampler(groups, resamples), least, weights)


def score(probabilities, y_true, groups, resamples: int = 1000, names=None, weights=None) -> Scores:
    return metrics.compute_metrics(probabilities, y_true, Resampler(groups, resamples), names, weights)


def class_table(probabilities, y_true, groups, weights=None) -> list[ClassFigures]:
    return metrics.class_table(probabilities, y_true, Resampler(groups), weights)


def draws_of(probabilities, y_true, groups, weights=None) -> metric_draws.Draws:
    return metric_draws.Draws(probabilities, y_true, Resampler(groups, 20), weights)


def approx(interval: Interval, **tolerance):
    return pytest.approx(astuple(interval), **tolerance)


def random_case(rng: np.random.Generator, rows: int, classes: int, unknown: bool = False):
    """Probabilities that know a little, true classes, groups; scores tie now and then."""
    truth = rng.choice([*range(classes), -100] if unknown else range(classes), rows)
    scores = rng.random((rows, classes)).round(1)
    scores[truth >= 0, truth[truth >= 0]] += 0.3
    return scores / scores.sum(axis=1, keepdims=True), truth, np.arange(rows) // 5 % (rows // 6)
