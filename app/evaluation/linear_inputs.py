"""What linear classifiers see of each input: features that need no training of a network, by the name of the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy.sparse import csr_array, hstack, issparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm
from transformers import WhisperFeatureExtractor

from data import Rows
from data.audio import StoredSound, decode_sound, pad_to_shortest
from data.context_features import encode_features
from data.contexts import Features

Splits = Sequence[Rows]
"""The training, the validation and the held-out rows."""
Keys = Sequence[Sequence[str | None]]
"""A key for each row of each split, equal for equal values of an input; ``None`` for a missing one."""
Matrices = list
"""Features of the rows of each split, dense or sparse."""
Describe = Callable[[Rows, int], np.ndarray]
"""Features ``(D,)`` of what a row has for an input."""
TEXT_AND_IMAGE = ({"name": "text", "kind": "text"}, {"name": "image", "kind": "image"})
"""The inputs of a model without further contexts, as entries of ``contexts``."""
MAX_SPARSE = 100_000
"""Training rows times classes. With more, words are reduced to `WORD_COMPONENTS` numbers, which are faster."""
WORD_COMPONENTS = 300


def linear_inputs(
    splits: Splits, contexts: Sequence[Mapping[str, Any]], picture: Describe | None, classes: int
) -> dict[str, Matrices]:
    """Features of the text, of the image, of each further context, and of all of them side by side.

    A text is its words and pairs of words, weighted by TF-IDF. A sequence of vectors is its mean, categories are
    one-hot, and a sound is the mean and the standard deviation over time of its log-mel spectrogram. Missing inputs are
    zeros. All features but those of texts are then standardized.

    Args:
        contexts: the entries of the model's ``contexts``.
        picture: gives the features of a row's picture; ``None`` if there are none to compare with.

    Returns:
        name of an input → its features, without inputs that no training row has, and without those of a context that
        are the main pictures again. All together are called ``both`` if
        there are no further contexts, otherwise ``all``; they are absent if there is one input, or no ``picture``.
    """
    inputs: dict[str, Matrices] = {}
    for spec in (*TEXT_AND_IMAGE, *contexts):
        keys = [input_keys(rows, spec["name"]) for rows in splits]
        if not any(keys[0]) or (spec["kind"] == "image" and (picture is None or is_main(splits, spec["name"], keys))):
            continue
        if spec["kind"] == "text":
            inputs[spec["name"]] = word_features(keys, classes)
        else:
            inputs[spec["name"]] = numeric_features(splits, spec, keys, picture)
    if len(inputs) > 1 and picture is not None:
        inputs["all" if contexts else "both"] = [join(parts) for parts in zip(*inputs.values(), strict=True)]
    return inputs


def input_keys(rows: Rows, name: str) -> Sequence[str | None]:
    """The key of each row for an input; that of a text is the text."""
    return {"text": rows.texts, "image": rows.image_keys, **rows.context_keys}[name]


def is_main(splits: Splits, name: str, keys: Keys) -> bool:
    """Whether a further context has the main pictures, for another network."""
    return name != "image" and all(list(own) == list(rows.image_keys) for rows, own in zip(splits, keys, strict=True))


def picture_rows(rows: Rows, name: str) -> Rows:
    """The rows with the pictures of an input as their images."""
    return rows if name == "image" else rows.pictures_of(name)


def word_features(texts: Keys, classes: int) -> Matrices:
    """TF-IDF features of words and pairs of words, fitted on the first rows: sparse, or reduced if there are many."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True, dtype=np.float32)
    filled = [[text or "" for text in part] for part in texts]
    words = [vectorizer.fit_transform(filled[0]), *(vectorizer.transform(held_out) for held_out in filled[1:])]
    components = min(WORD_COMPONENTS, min(words[0].shape) - 1)
    if words[0].shape[0] * classes <= MAX_SPARSE or components < 1:
        return words
    reduction = TruncatedSVD(components, random_state=0).fit(words[0])
    return [reduction.transform(part).astype(np.float32) for part in words]


def numeric_features(splits: Splits, spec: Mapping[str, Any], keys: Keys, picture: Describe | None) -> Matrices:
    """Standardized features of an input that is no text. Each different value is read once."""
    name = spec["name"]
    if spec["kind"] == "image":
        assert picture is not None
        splits, describe = [picture_rows(rows, name) for rows in splits], picture
    else:
        of_value = OF_VALUE[spec["kind"]]

        def describe(rows: Rows, row: int) -> np.ndarray:
            cell = rows.context_cells(row)[name]
            assert cell is not None
            return of_value(spec, cell.value)

    found: dict[str | None, np.ndarray] = {}
    for rows, own in zip(splits, keys, strict=True):
        for row, key in enumerate(tqdm(own, f"features of {name}", leave=False)):
            if key is not None and key not in found:
                found[key] = describe(rows, row)
    missing = np.zeros_like(next(iter(found.values())))
    return scale([np.stack([found.get(key, missing) for key in own]) for own in keys])


def sound_features(spec: Mapping[str, Any], sound: StoredSound) -> np.ndarray:
    """Mean and standard deviation over time of the log-mel spectrogram of a sound ``(160,)``, without padding."""
    extractor = log_mel()
    rate = extractor.sampling_rate
    samples = decode_sound(sound, rate, spec["seconds"])
    whole = {"padding": False, "truncation": False, "return_tensors": "np"}
    bands = extractor(pad_to_shortest(samples, rate), sampling_rate=rate, **whole)["input_features"][0]
    return np.concatenate([bands.mean(axis=1), bands.std(axis=1)])


@cache
def log_mel() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor()


def vector_features(spec: Mapping[str, Any], vectors: Features) -> np.ndarray:
    """Mean ``(width,)`` of a sequence of standardized vectors."""
    return encode_features(spec, vectors)[0].mean(axis=0)


def column_features(spec: Mapping[str, Any], cells: Features) -> np.ndarray:
    """Standardized numbers and one-hot categories ``(D,)``, zero for a missing cell."""
    parts = []
    for column, value, is_known in zip(spec["inputs"], *encode_features(spec, cells), strict=True):
        if column["categories"] is None:
            parts.append([value])
        else:
            parts.append(is_known & (np.arange(len(column["categories"])) == value))
    return np.concatenate(parts).astype(np.float32)


OF_VALUE: dict[str, Callable[[Mapping[str, Any], Any], np.ndarray]] = {
    "audio": sound_features,
    "vectors": vector_features,
    "columns": column_features,
}
"""Kind of a context → its features, from the entry of ``contexts`` and a value."""


def scale(features: Sequence[np.ndarray]) -> Matrices:
    """Standardized features of about unit length, as TF-IDF has it, so that one strength serves both."""
    scaler = StandardScaler().fit(features[0])
    return [(scaler.transform(part) / math.sqrt(part.shape[1])).astype(np.float32) for part in features]


def join(parts: Sequence):
    """Features of several inputs side by side, sparse if one of them is."""
    if any(issparse(part) for part in parts):
        return hstack([csr_array(part) for part in parts]).tocsr()
    return np.hstack(parts)
