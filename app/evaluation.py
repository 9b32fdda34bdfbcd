"""What held-out rows say of a model: figures with intervals, what it used, how sure it may be, where it looked."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import Accelerator

from app.calibration import calibration_figures
from app.deletion import deletion_figures
from app.metrics import Value, class_table, mean_interval, score
from app.page import write_report
from app.predictions import MODALITIES, Predictions, predict
from app.report import draw_examples, spread
from data import UNKNOWN, Collate, DataSettings, Rows
from models import ImageTextClassifier, ImageTextConfig, ImageTextProcessor

BOTH, TEXT_ONLY, IMAGE_ONLY, IMAGES_SHUFFLED, TEXTS_SHUFFLED = MODALITIES
BRIEF = ("accuracy", "macro_f1")
"""Metrics of what is only compared: baselines and slices."""


def evaluate(predictions: Predictions, rows: Rows, config: ImageTextConfig, slice_by: list[str]) -> dict:
    """Figures with 95 % intervals, by what the model was given, for the majority answer, and by slices of the rows.

    Args:
        slice_by: columns by whose values the accuracy is told apart.

    Returns:
        What ``metrics.json`` holds: ``rows``, ``images``, ``ceiling`` (share of rows whose label is known),
        ``unknown_labels`` (label → rows), ``scores`` (system → metric → value, low, high), ``inputs`` (what each input
        is worth, see `input_figures`), ``classes`` (label → rows, precision, recall, f1), ``slices`` (column → value →
        rows and metrics), ``calibration`` (see `app.calibration.calibration_figures`).
    """
    truth = predictions.labels
    groups = row_groups(rows)
    majority = np.eye(config.num_labels, dtype=np.float32)[np.full(len(truth), config.majority_label)]
    systems = predictions.probabilities | {"majority answer": majority}
    probabilities = systems[BOTH]
    scores = {system: score(p, truth, groups, names=BRIEF) for system, p in systems.items() if system != BOTH}
    table = class_table(probabilities, truth, groups)
    slices: dict[str, dict] = {}
    for column in slice_by:
        values = np.array([str(value) for value in rows.column(column)])
        for value in sorted(set(values)):
            chosen = values == value
            figures = score(probabilities[chosen], truth[chosen], groups[chosen], names=BRIEF)
            slices.setdefault(column, {})[value] = {"rows": int(chosen.sum()), **figures}
    return {
        "rows": len(rows),
        "images": len(set(rows.image_keys) - {None}),
        "ceiling": float((truth != UNKNOWN).mean()),
        "unknown_labels": dict(Counter(np.array(rows.labels)[truth == UNKNOWN].tolist()).most_common()),
        "scores": {BOTH: score(probabilities, truth, groups), **scores},
        "inputs": input_figures(predictions, groups),
        "classes": {config.id2label[c]: line for c, line in enumerate(table) if line["rows"]},
        "slices": slices,
        "calibration": calibration_figures(probabilities, truth, groups, config.temperature, config.threshold),
    }


def row_groups(rows: Rows) -> np.ndarray:
    """The image of each row, by which intervals are resampled; rows without one stand for themselves."""
    return np.array([key or f"row {number}" for number, key in zip(rows.numbers, rows.image_keys, strict=True)])


def input_figures(predictions: Predictions, groups: np.ndarray) -> dict:
    """Whether the model uses both inputs: what is lost without each, or with another row's, on the same rows.

    Returns:
        ``lost`` (system → accuracy with both less accuracy of the system: value, low, high) and ``verdict``, a
        sentence.
    """
    right = {way: p.argmax(axis=1) == predictions.labels for way, p in predictions.probabilities.items()}
    lost = {
        way: mean_interval(right[BOTH].astype(float) - right[way], groups) for way in MODALITIES[1:] if way in right
    }
    return {"lost": lost, "verdict": verdict(lost)}


def verdict(lost: dict[str, Value]) -> str:
    """What the losses mean, in words."""
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
    return " ".join(sentences)


def points(value: Value) -> str:
    """A difference in points of a percentage, with its interval."""
    return f"{100 * value['value']:.1f} points [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def evaluate_to(
    folder: Path,
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    rows: Rows,
    accelerator: Accelerator,
    settings: DataSettings,
    batch_size: int = 32,
    num_pictures: int = 8,
    num_deletion: int = 0,
) -> dict:
    """Evaluate on checked rows and write ``report.html``, ``metrics.json`` and ``predictions.parquet``.

    With ``num_pictures`` rows in each of its galleries the report shows where the model looked, and
    ``where_it_looked.png`` as many rows word by word; with ``num_deletion`` rows for the deletion check its figures.
    """
    config = accelerator.unwrap_model(model).config
    collate = Collate(processor, config.label2id, settings.max_pixels)
    workers, texts = settings.num_workers, settings.max_texts_per_image
    predictions = predict(model, rows, collate, accelerator, batch_size, workers, MODALITIES, texts)
    if not accelerator.is_main_process:
        return {}
    figures = evaluate(predictions, rows, config, settings.slice_by)
    folder.mkdir(parents=True, exist_ok=True)
    plain = accelerator.unwrap_model(model)
    if chosen := spread(rows, num_deletion):
        with accelerator.autocast():
            figures["deletion"] = deletion_figures(plain, processor, rows, chosen)
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False), encoding="utf-8")
    prediction_table(predictions, rows, config.id2label).to_parquet(folder / "predictions.parquet")
    if num_pictures:
        probabilities = predictions.probabilities[BOTH]
        draw_examples(
            folder / "where_it_looked.png", plain, processor, rows, probabilities, predictions.labels, num_pictures
        )
    write_report(folder / "report.html", figures, plain, processor, rows, predictions, num_pictures)
    return figures


def prediction_table(predictions: Predictions, rows: Rows, id2label: dict[int, str]) -> pd.DataFrame:
    """One line a row: what it was, what was answered, how surely, and whether that was right."""
    probabilities = predictions.probabilities[BOTH]
    best = probabilities.argmax(axis=1)
    return pd.DataFrame(
        {
            "row": rows.numbers,
            "image_key": list(rows.image_keys),
            "text": list(rows.texts),
            "label": list(rows.labels),
            "prediction": [id2label[i] for i in best.tolist()],
            "probability": probabilities.max(axis=1),
            "correct": best == predictions.labels,
            "probabilities": list(probabilities),
        }
    )
