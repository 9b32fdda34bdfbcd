"""The report: one page, with everything in it, that says what a model learnt and shows where it looked."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from app.evaluation.predict import MODALITIES, Predictions
from app.explanation.attribution import explain
from app.explanation.heatmaps import lay_over
from app.reporting import charts
from app.reporting.text import USED, how_right
from data import LabelFormat, Rows
from models import ImageTextClassifier, ImageTextProcessor
from models.decisions import answered, confidence
from models.description import describe_model
from models.onnx_classifier import OnnxModel

THUMBNAIL = 240
"""Longest side of the report's pictures, in pixels."""
SHOWN_WORDS = 12
"""Words of a text that have a heat-map of their own."""


@dataclass
class Card:
    """One row as the report shows it.

    Attributes:
        answer: what was answered, where that is not the first of ``answers``.
        answers: the most probable labels, and their probabilities.
        earned: how right the answer is, in [0, 1]; ``verdict`` says it in words.
        picture, seen, heat: addresses (``data:``) of the picture, of what the model gets of it, and of the heat-map;
            ``None`` where the model gives none.
        words: each word, and the probability it brought to the answer; empty where the model gives no heat-map.
        word_heats: word and address of its heat-map, where the card shows them.
    """

    row: int
    text: str
    answer: str | None
    answers: list[tuple[str, float]]
    earned: float
    verdict: str
    is_sure: bool
    picture: str
    seen: str
    heat: str | None
    words: list[tuple[str, float]]
    word_heats: list[tuple[str, str]]


@dataclass
class Gallery:
    """Rows under a heading."""

    title: str
    note: str
    cards: list[Card]


def write_report(
    path: Path,
    figures: dict,
    model: ImageTextClassifier | OnnxModel,
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
    environment = Environment(loader=FileSystemLoader(here / "templates"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"percent": percent, "interval": interval, "points": points, "zip": zip}
    page = environment.get_template("report.html.jinja").render(
        source=rows.source,
        figures=figures,
        both=MODALITIES[0],
        model=describe_model(model),
        explains=not isinstance(model, OnnxModel),
        used=USED.get(figures["role"], ""),
        galleries=galleries(model, processor, rows, predictions, num_pictures, chosen),
        charts=draw_charts(figures),
    )
    path.write_text(page, encoding="utf-8")


def percent(value: float) -> str:
    return f"{value:.1%}"


def interval(value: dict[str, float]) -> str:
    return f"{100 * value['low']:.1f} – {100 * value['high']:.1f}"


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def draw_charts(figures: dict) -> dict[str, str]:
    """All charts by name."""
    found = {
        "inputs": charts.draw_inputs(figures["scores"]),
        "reliability": charts.draw_reliability(figures["calibration"]["bins"]),
        "risk": charts.draw_risk(figures["calibration"]),
    }
    if figures["confusion"]:
        found["confusion"] = charts.draw_confusion(figures["confusion"])
    if "deletion" in figures:
        found["deletion"] = charts.draw_deletion(figures["deletion"])
    return found


def galleries(
    model: ImageTextClassifier | OnnxModel,
    processor: ImageTextProcessor,
    rows: Rows,
    predictions: Predictions,
    number: int,
    asked: Sequence[int],
) -> list[Gallery]:
    """The rows asked for, the surest wrong and the surest right answers, the least sure, and rows at even distances."""
    probabilities = predictions.probabilities[MODALITIES[0]]
    earned = predictions.right()
    sure = confidence(probabilities, predictions.truth.label_type)
    with_both = np.array([bool(t) and k is not None for t, k in zip(rows.texts, rows.image_keys, strict=True)])
    ranked = np.argsort(-sure, kind="stable")
    wrong_first, right_first = (ranked[((earned == worth) & with_both)[ranked]] for worth in (0, 1))
    unsure = ranked[with_both[ranked]][::-1]
    even = np.flatnonzero(with_both)
    even = even[np.unique(np.linspace(0, len(even) - 1, min(number, len(even))).astype(int))] if len(even) else even
    chosen = (
        ("Chosen rows", "as asked for", asked, len(asked)),
        ("Worst mistakes", "wrong, the surest first", wrong_first[:number], 1),
        ("Surest right answers", "right, the surest first", right_first[:number], 1),
        ("Least sure", "the lowest probability first", unsure[:number], 0),
        ("From first to last", "rows at even distances, unchosen", even, 0),
    )
    return [
        Gallery(
            title,
            note,
            [
                make_card(model, processor, rows, predictions, int(i), place < by_word)
                for place, i in enumerate(indices)
            ],
        )
        for title, note, indices, by_word in chosen
        if len(indices)
    ]


def make_card(
    model: ImageTextClassifier | OnnxModel,
    processor: ImageTextProcessor,
    rows: Rows,
    predictions: Predictions,
    index: int,
    by_word: bool,
) -> Card:
    """One row, its answers, and where they came from if the model tells; ``by_word``: with a heat-map of each word."""
    example, probabilities = rows[index], predictions.probabilities[MODALITIES[0]][index]
    assert example.text is not None
    picture = rows.picture(index)
    best, form = np.argsort(-probabilities, kind="stable")[:3], LabelFormat.of(model.config)
    explanation = (
        None if isinstance(model, OnnxModel) else explain(model, processor, picture, example.text, int(best[0]))
    )
    names = form.join(model.config.id2label[c] for c in answered(probabilities, form.type))
    earned = float(predictions.truth.select(np.array([index])).right(probabilities[None])[0])
    seen = as_seen(processor, picture)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    heat, words, overlays = None, [], []
    if explanation is not None:
        heat = as_address(lay_over(picture, explanation.answer_weights, explanation.answer_weights.max()))
        words = list(zip(explanation.words, explanation.effects.sum(axis=(1, 2)).tolist(), strict=True))
        overlays = explanation.overlays()[:SHOWN_WORDS] if by_word else []
    return Card(
        example.row,
        example.text,
        (names or "none of the labels") if form.type == "multi" else None,
        [(model.config.id2label[int(c)], float(probabilities[c])) for c in best],
        earned,
        how_right(earned, rows.labels[index]),
        bool(confidence(probabilities[None], form.type)[0] >= model.config.threshold),
        as_address(picture),
        as_address(seen),
        heat,
        words,
        [(word, as_address(overlay)) for (word, _), overlay in zip(words, overlays, strict=False)],
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
