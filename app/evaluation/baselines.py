"""What a model must beat: the most frequent answer, and the words of the text alone."""

from collections.abc import Sequence

import numpy as np
from sklearn import config_context
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from app.evaluation.targets import Truth
from data import LabelFormat, Rows


def always(answer: Sequence[int], rows: int, classes: int) -> np.ndarray:
    """Probabilities ``(rows, classes)`` that give the same classes to every row."""
    probabilities = np.zeros((rows, classes), dtype=np.float32)
    probabilities[:, list(answer)] = 1
    return probabilities


@config_context(enable_metadata_routing=True)
def text_baseline(train: Rows, held_out: Rows, label2id: dict[str, int], form: LabelFormat) -> np.ndarray:
    """Probabilities ``(n, C)`` from the words and pairs of words alone, learnt from training rows as they weigh."""
    classes = Truth.of(train.labels, label2id, form).classes()
    classifier = LogisticRegression(C=10, max_iter=300).set_fit_request(sample_weight=True)
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True),
        OneVsRestClassifier(classifier) if form.type == "multi" else classifier,
    )
    texts = ([text or "" for text in rows.texts] for rows in (train, held_out))
    if form.type == "multi":
        return model.fit(next(texts), classes[:, :-1], sample_weight=train.weights).predict_proba(next(texts))
    probabilities = np.zeros((len(held_out), len(label2id)))
    if len(there := np.unique(classes)) == 1:  # nothing to tell apart
        probabilities[:, there] = 1
        return probabilities
    found = model.fit(next(texts), classes, sample_weight=train.weights).predict_proba(next(texts))
    probabilities[:, model.classes_] = found
    return probabilities
