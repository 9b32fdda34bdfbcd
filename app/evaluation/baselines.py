"""Baselines that a model should beat: a constant answer, and the words of the text alone."""

from collections.abc import Sequence

import numpy as np
from sklearn import config_context
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from app.evaluation.targets import Targets
from data import LabelFormat, Rows


def constant_baseline(answer: Sequence[int], rows: int, classes: int) -> np.ndarray:
    """Probabilities ``(rows, classes)`` of the same answer, one or several classes, for every row."""
    probabilities = np.zeros((rows, classes), dtype=np.float32)
    probabilities[:, list(answer)] = 1
    return probabilities


@config_context(enable_metadata_routing=True)
def text_baseline(train: Rows, held_out: Rows, label2id: dict[str, int], form: LabelFormat) -> np.ndarray:
    """Probabilities ``(n, C)`` by logistic regression on TF-IDF of words and pairs of words.

    The training rows are weighted by their weights.
    """
    classes = Targets.of(train.labels, label2id, form).classes()
    classifier = LogisticRegression(C=10, max_iter=300).set_fit_request(sample_weight=True)
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True),
        OneVsRestClassifier(classifier) if form.type == "multi" else classifier,
    )
    train_texts, texts = ([text or "" for text in rows.texts] for rows in (train, held_out))
    if form.type == "multi":
        return model.fit(train_texts, classes[:, :-1], sample_weight=train.weights).predict_proba(texts)
    probabilities = np.zeros((len(held_out), len(label2id)))
    if len(present := np.unique(classes)) == 1:  # a classifier needs two classes
        probabilities[:, present] = 1
        return probabilities
    model.fit(train_texts, classes, sample_weight=train.weights)
    probabilities[:, model.classes_] = model.predict_proba(texts)
    return probabilities
