"""Accuracy of classical models on texts, and on texts with thumbnails of the images: baselines for a trained model.

python -m benchmarks.priors configs/vqa_rad.yaml --encoder MINILM_FOLDER --data.train … --data.test …

The parameters of each classifier are chosen by cross-validation on the training rows, with folds by image. The test
rows are used once. The line marked as a leak is the exception: its classifier also learns the other test rows. It shows
how much could be gained from test questions that occur twice in different words.
"""

import argparse
from itertools import product

import numpy as np
import torch
from scipy.sparse import vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances, rbf_kernel
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from app.evaluation.slices import slices_by_value
from app.settings_parser import parse_settings
from data import Rows, decode_image, load_rows, verify_images
from data.groups import row_groups

FOLDS = 4
SIDE = 24
"""Side of the thumbnails in pixels."""


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.priors", description=__doc__.partition("\n")[0])
    parser.add_argument("config", help="a configuration (.yaml); options of train.py may follow")
    parser.add_argument("--encoder", required=True, help="folder or Hub id of a pretrained sentence encoder")
    args, settings = parser.parse_known_args()
    data = parse_settings([args.config, *settings]).data
    rows = {split: verify_images(load_rows(getattr(data, split), split, data), data)[0] for split in ("train", "test")}
    labels, groups = np.array(list(rows["train"].labels)), row_groups(rows["train"], data.group)
    texts = {split: [text or "" for text in rows[split].texts] for split in rows}
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+").fit(texts["train"])
    tfidf = {split: words.transform(texts[split]) for split in rows}
    sentences = {split: embed(args.encoder, texts[split]) for split in rows}
    pictures = {split: thumbnails(rows[split]) for split in rows}
    parts = {f"{c} {v}": p for c in data.slice_by for v, p in slices_by_value(rows["test"].column(c)).items()}
    truth = np.array(list(rows["test"].labels))

    def print_row(name: str, folds: float | None, answers: np.ndarray) -> None:
        right = answers == truth
        values = (folds, right.mean(), *(right[chosen].mean() for chosen in parts.values()))
        cells = ("–" if value is None else f"{100 * value:.1f}" for value in values)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)

    print("| | " + " | ".join(["folds", "test", *parts]) + " |\n" + "| --- " * (3 + len(parts)) + "|")
    found = {
        "nearest neighbour, TF-IDF": (tfidf, [KNeighborsClassifier(1, metric="cosine")]),
        "logistic regression, TF-IDF": (tfidf, [LogisticRegression(C=c, max_iter=3000) for c in (1, 10, 100)]),
        "nearest neighbours, encoder": (sentences, [KNeighborsClassifier(k, metric="cosine") for k in (1, 5, 10, 20)]),
        "logistic regression, encoder": (sentences, [LogisticRegression(C=c, max_iter=3000) for c in (1, 10, 100)]),
    }
    for name, (features, models) in found.items():
        folds = [cross_validate(features["train"], model, labels, groups) for model in models]
        best = models[int(np.argmax(folds))].fit(features["train"], labels)
        print_row(name, max(folds), best.predict(features["test"]))
    leak = nearest_other(tfidf, np.concatenate([labels, truth]))
    print_row("nearest neighbour, TF-IDF, with the other test rows (a leak)", None, leak)
    nearness = image_similarity(pictures)
    for shares, name in (
        ((0.0,), "support vector machine, encoder"),
        ((0.2, 0.4, 0.6, 0.8), "the same × image kernel"),
    ):
        candidates = []
        for share, c, width in product(shares, (1, 3, 10), (0.5, 1, 2)):
            kernel = {
                split: rbf_kernel(sentences[split], sentences["train"], width) * (1 - share + share * nearness[split])
                for split in rows
            }
            model = SVC(C=c, kernel="precomputed")
            candidates.append((cross_validate(kernel["train"], model, labels, groups), model, kernel))
        folds, model, kernel = max(candidates, key=lambda candidate: candidate[0])
        print_row(name, folds, model.fit(kernel["train"], labels).predict(kernel["test"]))


def nearest_other(features: dict, labels: np.ndarray) -> np.ndarray:
    """For each test row, the label of the nearest other row among training and test rows ``(n,)``."""
    similarity = cosine_similarity(features["test"], vstack([features["train"], features["test"]]))
    own = features["train"].shape[0] + np.arange(len(similarity))
    similarity[np.arange(len(similarity)), own] = -np.inf
    return labels[similarity.argmax(axis=1)]


def image_similarity(pictures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """RBF kernel between images and those of the training rows: 1 for equal images, 0.14 at the median distance."""
    median = np.median(euclidean_distances(pictures["train"], squared=True))
    return {split: rbf_kernel(features, pictures["train"], 2 / median) for split, features in pictures.items()}


def embed(encoder: str, texts: list[str]) -> np.ndarray:
    """Mean of the last hidden states over the tokens, normalized to length 1 ``(n, hidden)``."""
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    found = []
    for start in tqdm(range(0, len(texts), 64), desc="texts", leave=False):
        tokens = tokenizer(texts[start : start + 64], padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            features = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        found.append(torch.nn.functional.normalize((features * mask).sum(1) / mask.sum(1), dim=1))
    return torch.cat(found).numpy()


def thumbnails(rows: Rows) -> np.ndarray:
    """Features of images: thumbnail, histogram of grey values and aspect ratio ``(n, features)``."""
    found: dict[str, np.ndarray] = {}
    for i in tqdm(range(len(rows)), desc="pictures", leave=False):
        key = str(rows.image_keys[i])
        if key not in found:
            picture = decode_image(rows[i].image).convert("RGB")
            pixels = np.asarray(picture.resize((SIDE, SIDE)), dtype=float) / 255
            grey = np.histogram(np.asarray(picture.convert("L")), 32, (0, 256), density=True)[0]
            found[key] = np.concatenate([pixels.ravel(), 50 * grey, [3 * picture.width / picture.height]])
    return np.stack([found[str(key)] for key in rows.image_keys])


def cross_validate(features, model, labels: np.ndarray, groups: np.ndarray) -> float:
    """Mean accuracy in cross-validation by group. For an SVC, ``features`` is a kernel matrix."""
    right = []
    for train, held_out in GroupKFold(FOLDS).split(labels, labels, groups):
        square = isinstance(model, SVC)
        seen, asked = (features[np.ix_(part, train)] if square else features[part] for part in (train, held_out))
        right.append(np.mean(model.fit(seen, labels[train]).predict(asked) == labels[held_out]))
    return float(np.mean(right))


if __name__ == "__main__":
    main()
