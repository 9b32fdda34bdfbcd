"""What held-out rows say of a model: figures with intervals, what it used, how sure it may be, where it looked."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from app.evaluation.baselines import always
from app.evaluation.bootstrap import Value, mean_interval
from app.evaluation.calibration import calibration_figures
from app.evaluation.metrics import class_table, score
from app.evaluation.predict import MODALITIES, Predictions
from app.evaluation.targets import Truth
from data import LabelFormat, Rows
from data.prepare import describe_groups, row_groups
from models import ImageTextConfig

BOTH, TEXT_ONLY, IMAGE_ONLY, IMAGES_SHUFFLED, TEXTS_SHUFFLED = MODALITIES
BRIEF = ("accuracy", "macro_f1")
"""Metrics of what is only compared: baselines and slices."""
CONFUSED = 30
"""Most frequent labels that the confusion matrix tells apart."""

Role = Literal["test", "validation", "train"]
"""What rows were used for: nothing, or to choose epoch, temperature and threshold, or to train on."""


def evaluate(
    predictions: Predictions,
    rows: Rows,
    config: ImageTextConfig,
    slices: dict[str, dict[str, np.ndarray]],
    groups: np.ndarray,
    resampled_by: str,
) -> dict:
    """Figures with 95 % intervals, by what the model was given, for the majority answer, and by slices of the rows.

    Args:
        slices: column → value → which rows have it ``(n,)``, by which the accuracy is told apart.
        groups, resampled_by: see `groups_of`.

    Returns:
        ``rows``, ``images``, ``resampled_by``, ``label_type``, ``ceiling`` (how right the best answers would be; less
        than 1 where labels are not known or annotators disagree), ``unknown_labels`` (label → rows), ``scores``
        (system → metric → value, low, high), ``inputs`` (what each input is worth, see `input_figures`), ``classes``
        (label → rows, precision, recall, f1), ``confusion`` (see `confusion_figures`), ``slices`` (column → value →
        rows and metrics), ``calibration`` (see `app.evaluation.calibration.calibration_figures`).
    """
    truth, form = predictions.truth, LabelFormat.of(config)
    majority = always(config.majority_answer, len(truth), config.num_labels)
    systems = predictions.probabilities | {"majority answer": majority}
    probabilities = systems[BOTH]
    scores = {system: scores_of(p, truth, groups, None if system == BOTH else BRIEF) for system, p in systems.items()}
    table = class_table(probabilities, truth.classes(), groups, weights=truth.weights)
    return {
        "rows": len(rows),
        "images": len(set(rows.image_keys) - {None}),
        "resampled_by": resampled_by,
        "label_type": form.type,
        "ceiling": truth.mean(truth.best()),
        "unknown_labels": {
            name: number for name, number in form.count(rows.labels).most_common() if name not in config.label2id
        },
        "scores": scores,
        "inputs": input_figures(predictions, groups),
        "classes": {config.id2label[c]: line for c, line in enumerate(table) if line["rows"]},
        "confusion": confusion_figures(probabilities, truth, list(config.id2label.values())),
        "slices": {
            column: {value: slice_figures(probabilities, truth, groups, chosen) for value, chosen in values.items()}
            for column, values in slices.items()
        },
        "calibration": calibration_figures(probabilities, truth, groups, config.temperature, config.threshold),
    }


def groups_of(rows: Rows, group: str | None) -> tuple[np.ndarray, str]:
    """Group of each row ``(n,)`` by which intervals are resampled, and what makes them, in words."""
    if group and group not in rows.table.column_names:
        return row_groups(rows, None), f"image (these rows have no column {group})"
    return row_groups(rows, group), describe_groups(group)


def confusion_figures(probabilities: np.ndarray, truth: Truth, names: list[str]) -> dict:
    """Answers by true label: ``labels``, the most frequent ones and last all others, and ``counts``, a row a label.

    Empty for ``multi``, where an answer is a set of classes.
    """
    if truth.label_type == "multi":
        return {}
    labels, answers = truth.classes(), probabilities.argmax(axis=1)
    frequency = np.bincount(labels[labels >= 0], minlength=len(names))
    shown = np.sort(np.argsort(-frequency, kind="stable")[:CONFUSED])
    shown = shown[frequency[shown] > 0]
    place = np.full(len(names) + 1, len(shown))
    place[shown] = np.arange(len(shown))
    counts = np.zeros((len(shown) + 1, len(shown) + 1), dtype=int)
    np.add.at(counts, (place[np.where(labels < 0, len(names), labels)], place[answers]), 1)
    return {"labels": [*(names[c] for c in shown), "others"], "counts": counts.tolist()}


def slice_figures(probabilities: np.ndarray, truth: Truth, groups: np.ndarray, chosen: np.ndarray) -> dict:
    """How many rows a slice has, and what is right of them."""
    figures = scores_of(probabilities[chosen], truth.select(chosen), groups[chosen], BRIEF)
    return {"rows": int(chosen.sum()), **figures}


def scores_of(
    probabilities: np.ndarray, truth: Truth, groups: np.ndarray, names: Sequence[str] | None
) -> dict[str, Value]:
    """Metrics with intervals; the accuracy of annotators' answers is what they earn (VQA accuracy), their other metrics
    are those of the most frequent answer. The interval of an accuracy of rows that weigh is that of a mean, which knows
    how few they may be."""
    scores = score(probabilities, truth.classes(), groups, names=names, weights=truth.weights)
    if truth.label_type == "annotators" or truth.weights is not None:
        scores["accuracy"] = mean_interval(truth.right(probabilities), groups, weights=truth.weights)
    return scores


def input_figures(predictions: Predictions, groups: np.ndarray) -> dict:
    """Whether the model uses both inputs: what is lost without each, or with another row's, on the same rows.

    Returns:
        ``lost`` (system → accuracy with both less accuracy of the system: value, low, high), ``kept`` (system → rows
        that were asked with nothing but their own, of all) and ``verdict``, sentences.
    """
    right, weights = {way: predictions.right(way) for way in predictions.probabilities}, predictions.truth.weights
    lost = {
        way: mean_interval(right[BOTH] - right[way], groups, least=-1, weights=weights)
        for way in MODALITIES[1:]
        if way in right
    }
    kept = {way: predictions.kept.get(way, 0) for way in lost}
    return {"lost": lost, "kept": kept, "verdict": verdict(lost, kept, len(predictions.truth))}


def verdict(lost: dict[str, Value], kept: dict[str, int], rows: int) -> str:
    """What the losses mean, in words, and how many of the rows that were to be shuffled were not."""
    sentences = []
    for name, without, shuffled in (("image", TEXT_ONLY, IMAGES_SHUFFLED), ("text", IMAGE_ONLY, TEXTS_SHUFFLED)):
        told = f"{points(lost[without])} without it, {points(lost[shuffled])} with another row's"
        if lost[without]["low"] > 0 and lost[shuffled]["low"] > 0:
            sentences.append(f"It uses the {name}: accuracy loses {told}.")
        elif lost[shuffled]["low"] > 0:
            sentences.append(
                f"It reads the {name}, but is not shown to gain by it: accuracy loses {told}; a model of the other "
                "input alone may do as well."
            )
        else:
            sentences.append(f"It is not shown to use the {name}: accuracy loses {told}.")
        if same := kept[shuffled]:
            sentences.append(f"When shuffled, {same:,} of {rows:,} rows kept their own {name}, an equal one or none.")
    return " ".join(sentences)


def points(value: Value) -> str:
    """A difference in points of a percentage, with its interval."""
    return f"{100 * value['value']:.1f} points [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
