"""The HTML report: one self-contained page with figures, charts and example rows."""

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

from app.evaluation.figures import Evaluation, Interval
from app.evaluation.predict import BOTH, Predictions
from app.explanation.attribution import explain
from app.explanation.heatmaps import overlay_heatmap
from app.reporting import charts
from app.reporting.example_grid import evenly_spaced_rows
from app.reporting.text import ROLE_WARNINGS, correctness_text, input_use_text
from data import LabelFormat, Rows
from models import ImageTextClassifier, ImageTextProcessor
from models.decisions import answered, confidence
from models.description import describe_model
from models.onnx_classifier import OnnxModel

THUMBNAIL = 240
"""Longest side of an example picture, in pixels."""
SHOWN_WORDS = 12
"""Number of words of a text with a heat-map of their own."""


@dataclass
class Card:
    """One example row in the report.

    Attributes:
        answer: the set of labels that was answered; ``None`` if the answer is the first of ``answers``.
        answers: the most probable labels with their probabilities.
        correctness: how correct the answer is, in [0, 1]; ``verdict`` says it in words.
        picture, model_input, heat: data URIs of the picture, of the model's input, and of the heat-map of the answer;
            ``heat`` is ``None`` if the model gives none.
        words: each word with its effect on the probability of the answer; empty if the model gives no heat-map.
        word_heats: words with the data URI of their heat-map; empty if the card does not show them.
    """

    row: int
    text: str
    answer: str | None
    answers: list[tuple[str, float]]
    correctness: float
    verdict: str
    is_sure: bool
    picture: str
    model_input: str
    heat: str | None
    words: list[tuple[str, float]]
    word_heats: list[tuple[str, str]]


@dataclass
class Gallery:
    """Example rows under one heading."""

    title: str
    note: str
    cards: list[Card]


def write_report(
    path: Path,
    figures: Evaluation,
    model: ImageTextClassifier | OnnxModel,
    processor: ImageTextProcessor,
    rows: Rows,
    predictions: Predictions,
    num_pictures: int,
    chosen: Sequence[int] = (),
) -> None:
    """Write ``report.html``. The page needs no other file and no network.

    Args:
        num_pictures: rows in each gallery; 0 leaves the galleries out.
        chosen: indices of rows that the first gallery shows.
    """
    here = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(here / "templates"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"percent": percent, "interval": interval, "points": signed_points, "zip": zip}
    page = environment.get_template("report.html.jinja").render(
        source=rows.source,
        figures=figures,
        both=BOTH,
        input_use=input_use_text(figures),
        model=describe_model(model),
        explains=not isinstance(model, OnnxModel),
        role_warning=ROLE_WARNINGS.get(figures.role, ""),
        galleries=galleries(model, processor, rows, predictions, num_pictures, chosen),
        charts=draw_charts(figures),
    )
    path.write_text(page, encoding="utf-8")


def percent(value: float) -> str:
    """A share in percent."""
    return f"{value:.1%}"


def interval(value: Interval) -> str:
    """Ends of an interval in percent."""
    return f"{100 * value.low:.1f} – {100 * value.high:.1f}"


def signed_points(value: float) -> str:
    """A difference in percentage points, with its sign."""
    return f"{100 * value:+.1f}"


def draw_charts(figures: Evaluation) -> dict[str, str]:
    """Name → SVG element of each chart."""
    found = {
        "inputs": charts.draw_inputs(figures.scores),
        "reliability": charts.draw_reliability(figures.calibration.bins),
        "risk": charts.draw_risk(figures.calibration),
    }
    if figures.confusion:
        found["confusion"] = charts.draw_confusion(figures.confusion)
    if figures.deletion:
        found["deletion"] = charts.draw_deletion(figures.deletion)
    return found


def galleries(
    model: ImageTextClassifier | OnnxModel,
    processor: ImageTextProcessor,
    rows: Rows,
    predictions: Predictions,
    number: int,
    chosen: Sequence[int],
) -> list[Gallery]:
    """Chosen rows, confident mistakes, confident correct answers, unsure answers, and evenly spaced rows."""
    correctness = predictions.correctness()
    confidences = confidence(predictions.probabilities[BOTH], predictions.targets.label_type)
    with_both = np.array([bool(t) and k is not None for t, k in zip(rows.texts, rows.image_keys, strict=True)])
    ranked = np.argsort(-confidences, kind="stable")
    wrong, correct = (ranked[((correctness == value) & with_both)[ranked]] for value in (0, 1))
    unsure = ranked[with_both[ranked]][::-1]
    selections = (
        ("Chosen rows", "from the command line", chosen, len(chosen)),
        ("Worst mistakes", "wrong answers, the most confident first", wrong[:number], 1),
        ("Best answers", "correct answers, the most confident first", correct[:number], 1),
        ("Least confident", "the lowest probability first", unsure[:number], 0),
        ("From first to last", "evenly spaced rows", evenly_spaced_rows(rows, number), 0),
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
        for title, note, indices, by_word in selections
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
    """One example row with its answers and heat-map; with ``by_word`` also a heat-map of each word."""
    example, probabilities = rows[index], predictions.probabilities[BOTH][index]
    assert example.text is not None
    picture = rows.decoded_image(index)
    best, form = np.argsort(-probabilities, kind="stable")[:3], LabelFormat.of(model.config)
    explanation = (
        None if isinstance(model, OnnxModel) else explain(model, processor, picture, example.text, int(best[0]))
    )
    names = form.join(model.config.id2label[c] for c in answered(probabilities, form.type))
    correctness = float(predictions.targets.select(np.array([index])).correctness(probabilities[None])[0])
    resized = model_input(processor, picture)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    heat, words, overlays = None, [], []
    if explanation is not None:
        heat = to_data_uri(overlay_heatmap(picture, explanation.answer_weights, explanation.answer_weights.max()))
        words = list(zip(explanation.words, explanation.effects.sum(axis=(1, 2)).tolist(), strict=True))
        overlays = explanation.overlays()[:SHOWN_WORDS] if by_word else []
    return Card(
        example.row,
        example.text,
        (names or "none of the labels") if form.type == "multi" else None,
        [(model.config.id2label[int(c)], float(probabilities[c])) for c in best],
        correctness,
        correctness_text(correctness, rows.labels[index]),
        bool(confidence(probabilities[None], form.type)[0] >= model.config.threshold),
        to_data_uri(picture),
        to_data_uri(resized),
        heat,
        words,
        [(word, to_data_uri(overlay)) for (word, _), overlay in zip(words, overlays, strict=False)],
    )


def model_input(processor: ImageTextProcessor, picture: Image.Image) -> Image.Image:
    """A picture as the model receives it: resized, and without the normalisation."""
    pixels = processor([picture], None)["pixel_values"][0]
    tools = processor.image_processor
    mean, std = (torch.tensor(values)[:, None, None] for values in (tools.image_mean, tools.image_std))
    return Image.fromarray(((pixels * std + mean).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())


def to_data_uri(picture: Image.Image) -> str:
    """A picture as a ``data:`` URI."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
