"""Baselines that a model should beat: a constant answer, and linear classifiers of each input and of all together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from scipy.sparse import issparse
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from app.evaluation.label_thresholds import fit_label_thresholds
from app.evaluation.linear_inputs import Matrices
from app.evaluation.metrics import METRICS
from app.evaluation.targets import Targets
from data import LabelFormat, Rows
from models.decisions import Thresholds, center

LINEAR = "linear, "
"""Names of linear classifiers start with this; the name of the input follows."""
LINEAR_TEXT, LINEAR_IMAGE, LINEAR_BOTH, LINEAR_ALL = (LINEAR + name for name in ("text", "image", "both", "all"))
FROZEN_FEATURES = "features of the frozen image encoder"
"""What linear classifiers see of a picture, in words, if the model does not train its image encoder."""
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Inverse regularization strengths of logistic regression; the validation rows choose one."""
MAX_PRODUCTS = 5_000_000_000
"""Products of one pass over the training rows. With more, a classifier learns from a random part of the rows."""
TRIAL_PRODUCTS, TRIAL_ROWS = 50_000_000, 2_000
"""As `MAX_PRODUCTS`, while the strength is chosen, but not fewer than these rows."""
LinearModel: TypeAlias = LogisticRegression | OneVsRestClassifier


@dataclass(frozen=True)
class Linear:
    """Answers of linear classifiers.

    Attributes:
        probabilities: name of a classifier, `LINEAR` and that of its input → ``(n, C)``.
        images: what the classifiers see of a picture, in words.
        thresholds: the same name → thresholds, for several labels a row.
    """

    probabilities: dict[str, np.ndarray]
    images: str
    thresholds: dict[str, Thresholds] = field(default_factory=dict)

    def centered(self) -> dict[str, np.ndarray]:
        """Probabilities whose thresholds are all 0.5, as metrics expect them."""
        return {name: center(found, self.thresholds.get(name)) for name, found in self.probabilities.items()}


def constant_baseline(answer: Sequence[int], rows: int, classes: int) -> np.ndarray:
    """Probabilities ``(rows, classes)`` of the same answer, one or several classes, for every row."""
    probabilities = np.zeros((rows, classes), dtype=np.float32)
    probabilities[:, list(answer)] = 1
    return probabilities


def linear_baselines(
    splits: tuple[Rows, Rows, Rows],
    inputs: Mapping[str, Matrices],
    label2id: dict[str, int],
    form: LabelFormat,
    metric: str,
) -> tuple[dict[str, np.ndarray], dict[str, Thresholds]]:
    """Probabilities ``(n, C)`` of the last rows by logistic regression on each input.

    Regularization is chosen by the second rows. Training rows count by their weights.

    Args:
        splits: rows to learn from, to choose by, and to answer.
        inputs: name of an input → its features, see `app.evaluation.linear_inputs`.
        metric: name of the figure that the validation rows choose by, one of `app.evaluation.metrics.METRICS`.

    Returns:
        the name of a linear classifier, `LINEAR` and that of its input → probabilities, and → thresholds for several
        labels a row.
    """
    targets = [Targets.of(rows.labels, label2id, form, rows.weights) for rows in splits]
    found = {
        LINEAR + name: best_probabilities(features, targets, len(label2id), metric) for name, features in inputs.items()
    }
    return {name: probabilities for name, (probabilities, _) in found.items()}, {
        name: thresholds for name, (_, thresholds) in found.items()
    }


def best_probabilities(
    features: Matrices, targets: Sequence[Targets], classes: int, metric: str
) -> tuple[np.ndarray, Thresholds]:
    """Probabilities of the last rows, with the regularization that is best on the validation rows, and thresholds.

    The validation rows choose the thresholds of several labels, except for the accuracy, which is that of whole sets.
    """
    train, validation, held_out = features
    model = fit_linear(train, validation, targets[0], targets[1], classes, metric)
    if isinstance(model, int):
        return constant_baseline([model], held_out.shape[0], classes), None
    found = all_classes(model, held_out, classes)
    if targets[0].label_type != "multi" or metric == "accuracy":
        return found, None
    chosen_by = all_classes(model, validation, classes)
    return found, fit_label_thresholds(chosen_by, targets[1].classes(), targets[1].weights)


@config_context(enable_metadata_routing=True)
def fit_linear(
    train,
    validation,
    train_targets: Targets,
    targets: Targets,
    classes: int,
    metric: str,
    is_balanced: bool = False,
    strengths: Sequence[float] | None = None,
    products: int | None = None,
) -> LinearModel | int:
    """Logistic regression with the regularization that is best on the validation rows.

    Args:
        train, validation: features ``(n, D)``, dense or sparse.
        train_targets, targets: labels of the training and of the validation rows.
        metric: figure of the validation rows, see `figure_of`.
        is_balanced: weigh classes by their inverse frequency.
        strengths: inverse regularization strengths to choose from, by default `STRENGTHS`.
        products: by default `MAX_PRODUCTS`.

    Returns:
        the classifier, for ``multi`` one of each class against the others; or the class of all rows if there is one.
    """
    strengths, products = strengths or STRENGTHS, products or MAX_PRODUCTS
    y, weights = train_targets.classes(), train_targets.weights
    is_multi = train_targets.label_type == "multi"
    known = np.arange(train.shape[0]) if is_multi else np.flatnonzero(y >= 0)
    if train_targets.label_type == "annotators":  # a row for each answer, weighted by its score
        scores = train_targets.values * (1 if weights is None else weights[:, None])
        known, y = scores.nonzero()
        train, weights = train[known], scores[known, y] / train_targets.values[known].sum(axis=1)
        known = np.arange(len(y))
    if not is_multi and len(present := np.unique(y[known])) == 1:  # a classifier needs two classes
        return int(present[0])

    def fit(strength: float, rows: np.ndarray) -> LinearModel:
        classifier = LogisticRegression(C=strength, class_weight="balanced" if is_balanced else None)
        classifier = classifier.set_fit_request(sample_weight=True)
        model = OneVsRestClassifier(classifier) if is_multi else classifier
        labels = y[rows, :-1] if is_multi else y[rows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred steps are enough to compare
            warnings.filterwarnings("ignore", "Label .* is present in all training examples")
            return model.fit(train[rows], labels, sample_weight=None if weights is None else weights[rows])

    trial = affordable_rows(train[known], classes, TRIAL_PRODUCTS, TRIAL_ROWS)
    trial = known[trial] if is_multi or len(np.unique(y[known[trial]])) > 1 else known
    figures = [
        figure_of(all_classes(fit(strength, trial), validation, classes), targets, metric) for strength in strengths
    ]
    chosen = strengths[int(np.argmax(figures))]
    return fit(chosen, known[affordable_rows(train[known], classes, products)])


def affordable_rows(features, classes: int, products: int, least: int = 1) -> np.ndarray:
    """Numbers of all rows, or of a random part if a pass over all has more than this number of products."""
    rows, columns = features.shape
    if issparse(features):
        columns = features.nnz / rows
    limit = int(products / max(1.0, classes * columns))
    if rows <= max(least, limit):
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, max(least, limit), replace=False))


def all_classes(model: LinearModel, features, classes: int) -> np.ndarray:
    """Probabilities ``(n, C)`` for all classes, 0 for those that the model does not know."""
    probabilities = np.zeros((features.shape[0], classes), dtype=np.float32)
    probabilities[:, np.asarray(model.classes_, dtype=int)] = model.predict_proba(features)
    return probabilities


def figure_of(probabilities: np.ndarray, targets: Targets, metric: str) -> float:
    """A metric of rows, or the negative cross-entropy for ``loss``.

    The accuracy is that of the label type, and also taken if the rows do not define the metric.
    """
    if metric == "loss":
        losses = targets.cross_entropy(probabilities)
        known = ~np.isnan(losses)
        return -targets.select(known).mean(losses[known]) if known.any() else 0.0
    value = np.nan if metric == "accuracy" else METRICS[metric](targets.classes(), probabilities, targets.weights)
    return float(targets.mean(targets.correctness(probabilities)) if np.isnan(value) else value)
