"""The report: one page, with everything in it, that says what a model learnt and shows where it looked."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from app import charts
from app.explain import explain, lay_over
from app.onnx_model import OnnxModel
from app.predictions import MODALITIES, Predictions
from app.truth import confidence
from data import Rows, decode_image
from models import ImageTextClassifier, ImageTextProcessor

THUMBNAIL = 240
"""Longest side of the report's pictures, in pixels."""
SHOWN_CLASSES = 30
"""Most frequent labels that the confusion matrix shows."""


@dataclass
class Card:
    """One row as the report shows it: pictures as ``data:`` addresses, words with what each brought to the answer."""

    row: int
    text: str
    label: str
    answers: list[tuple[str, float]]
    is_right: bool
    is_sure: bool
    picture: str
    seen: str
    heat: str
    words: list[tuple[str, float]]


@dataclass
class Gallery:
    """Rows under a heading."""

    title: str
    note: str
    cards: list[Card]


def write_report(
    path: Path,
    figures: dict,
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    rows: Rows,
    predictions: Predictions,
    num_pictures: int,
    chosen: Sequence[int] = (),
) -> None:
    """Write ``report.html``, which needs no other file and no network.

    Args:
        num_pictures: rows in each gallery; 0 leaves pictures of rows out.
        chosen: rows that a gallery of their own shows, first of all.
    """
    here = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"percent": percent, "interval": interval, "points": points}
    page = environment.get_template("report.html.jinja").render(
        source=rows.source,
        figures=figures,
        both=MODALITIES[0],
        model=describe_model(model),
        saw=what_it_saw(processor, rows),
        galleries=galleries(model, processor, rows, predictions, num_pictures, chosen),
        charts=draw_charts(figures, predictions, list(model.config.id2label.values())),
    )
    path.write_text(page, encoding="utf-8")


def percent(value: float) -> str:
    return f"{value:.1%}"


def interval(value: dict[str, float]) -> str:
    return f"{100 * value['low']:.1f} – {100 * value['high']:.1f}"


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def describe_model(model: ImageTextClassifier | OnnxModel) -> dict[str, str]:
    """Its parts in a line each."""
    config = model.config
    image = "VGG16" + (" with batch norm" if config.batch_norm else "")
    return {
        "image encoder": f"{image if config.image_config is None else config.image_config.model_type} at "
        f"{config.image_size} × {config.image_size} px",
        "text encoder": config.custom_text_encoder or config.text_config.model_type,
        "fusion": config.fusion
        if config.fusion in ("concat", "none")
        else f"{config.fusion}, attention {config.attention}",
        "labels": f"{config.num_labels:,}",
        "parameters": f"{model.num_parameters() / 1e6:.1f} million",
    }


def what_it_saw(processor: ImageTextProcessor, rows: Rows) -> dict[str, int]:
    """How many different texts there are, are cut, and have words the tokenizer does not know; how many are missing."""
    tokenizer, texts = processor.tokenizer, set(rows.texts.present())
    tokens = lru_cache(maxsize=None)(lambda text: tokenizer(text, verbose=False)["input_ids"])
    unknown = tokenizer.unk_token_id
    return {
        "texts": len(texts),
        "limit": tokenizer.model_max_length,
        "cut": sum(len(tokens(text)) > tokenizer.model_max_length for text in texts),
        "unknown": 0 if unknown is None else sum(unknown in tokens(text) for text in texts),
        "no_text": sum(text is None for text in rows.texts),
        "no_image": sum(key is None for key in rows.image_keys),
    }


def draw_charts(figures: dict, predictions: Predictions, names: list[str]) -> dict[str, str]:
    """All charts by name."""
    found = {
        "inputs": charts.draw_inputs(figures["scores"]),
        "reliability": charts.draw_reliability(figures["calibration"]["bins"]),
        "risk": charts.draw_risk(figures["calibration"]),
    }
    if predictions.truth.label_type != "multi":
        found["confusion"] = confusion_chart(predictions, names)
    if "deletion" in figures:
        found["deletion"] = charts.draw_deletion(figures["deletion"])
    return found


def confusion_chart(predictions: Predictions, names: list[str]) -> str:
    """Of the most frequent labels; what is answered beyond them is one column."""
    truth, answers = predictions.truth.classes(), predictions.probabilities[MODALITIES[0]].argmax(axis=1)
    frequency = np.bincount(truth[truth >= 0], minlength=len(names))
    shown = np.sort(np.argsort(-frequency, kind="stable")[:SHOWN_CLASSES])
    shown = shown[frequency[shown] > 0]
    place = np.full(len(names) + 1, len(shown))
    place[shown] = np.arange(len(shown))
    matrix = np.zeros((len(shown) + 1, len(shown) + 1), dtype=int)
    np.add.at(matrix, (place[np.where(truth < 0, len(names), truth)], place[answers]), 1)
    return charts.draw_confusion(matrix, [*(names[c] for c in shown), "others"])


def galleries(
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    rows: Rows,
    predictions: Predictions,
    number: int,
    asked: Sequence[int],
) -> list[Gallery]:
    """The rows asked for, the surest wrong and the surest right answers, the least sure, and rows at even distances."""
    probabilities = predictions.probabilities[MODALITIES[0]]
    right = predictions.right() == 1
    sure = confidence(probabilities, predictions.truth.label_type)
    with_both = np.array([bool(t) and k is not None for t, k in zip(rows.texts, rows.image_keys, strict=True)])
    ranked = np.argsort(-sure, kind="stable")
    wrong_first, right_first = ranked[(~right & with_both)[ranked]], ranked[(right & with_both)[ranked]]
    unsure = ranked[with_both[ranked]][::-1]
    even = np.flatnonzero(with_both)
    even = even[np.unique(np.linspace(0, len(even) - 1, min(number, len(even))).astype(int))] if len(even) else even
    chosen = (
        ("Chosen rows", "as asked for", asked),
        ("Worst mistakes", "wrong, the surest first", wrong_first[:number]),
        ("Surest right answers", "right, the surest first", right_first[:number]),
        ("Least sure", "the lowest probability first", unsure[:number]),
        ("From first to last", "rows at even distances, unchosen", even),
    )
    return [
        Gallery(title, note, [make_card(model, processor, rows, predictions, int(i)) for i in indices])
        for title, note, indices in chosen
        if len(indices)
    ]


def make_card(
    model: ImageTextClassifier, processor: ImageTextProcessor, rows: Rows, predictions: Predictions, index: int
) -> Card:
    """One row, its answers, and where they came from."""
    example, probabilities = rows[index], predictions.probabilities[MODALITIES[0]][index]
    assert example.image is not None
    assert example.text is not None
    picture = decode_image(example.image)
    explanation = explain(model, processor, picture, example.text)
    best = np.argsort(-probabilities, kind="stable")[:3]
    label_type = predictions.truth.label_type
    how_right = predictions.truth.select(np.array([index])).right(probabilities[None])[0]
    seen = as_seen(processor, picture)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    heat = lay_over(picture, explanation.answer_weights, explanation.answer_weights.max())
    effects = explanation.effects.sum(axis=(1, 2))
    return Card(
        example.row,
        example.text,
        example.label,
        [(model.config.id2label[int(c)], float(probabilities[c])) for c in best],
        bool(how_right == 1),
        bool(confidence(probabilities[None], label_type)[0] >= model.config.threshold),
        as_address(picture),
        as_address(seen),
        as_address(heat),
        list(zip(explanation.words, effects.tolist(), strict=True)),
    )


def as_seen(processor: ImageTextProcessor, picture: Image.Image) -> Image.Image:
    """What the model gets of a picture."""
    pixels = processor([picture], None)["pixel_values"][0]
    tools = processor.image_processor
    mean, std = (torch.tensor(values)[:, None, None] for values in (tools.image_mean, tools.image_std))
    return Image.fromarray(((pixels * std + mean).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())


def as_address(picture: Image.Image) -> str:
    """A picture as the source of an ``<img>``."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
