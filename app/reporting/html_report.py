"""The HTML report: one self-contained page with figures, charts and example rows."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from app.evaluation.figures import Evaluation
from app.evaluation.interval import Interval
from app.evaluation.predict import Predictions
from app.explanation.attribution import Explanation
from app.explanation.drawing import enlarged
from app.reporting import charts
from app.reporting.example_grid import evenly_spaced_rows
from app.reporting.explained_rows import SIDE, ExplainedRows
from app.reporting.text import (
    advantage_text,
    correctness_text,
    input_use_text,
    metric_name,
    percent,
    role_text,
    trust_text,
)
from app.reporting.tinted_text import MAX_WORDS, Piece, tint
from data import LabelFormat, Rows
from models import ImageTextProcessor
from models.decisions import answered, confidence
from models.description import describe_model
from models.onnx_classifier import OnnxModel


@dataclass
class Evidence:
    """What an answer rests on, as a card shows it.

    Attributes:
        answer: the label that the evidence is for.
        picture: data URI of the picture with the evidence; ``None`` without a picture.
        sentence: what was checked for this picture.
        words: word, effect in points with its sign, and data URI of its map, for the words that did most; empty if the
            card does not show them.
    """

    answer: str
    picture: str | None
    sentence: str
    words: list[tuple[str, float, str]]


@dataclass
class Card:
    """One example row in the report.

    Attributes:
        text: pieces of the text, the words that matter with their effects; empty without a text.
        whole_text: the text if ``text`` shows only parts of it.
        answer: the set of labels that was answered; ``None`` if the answer is the first of ``answers``.
        answers: the most probable labels with their probabilities.
        correctness: how correct the answer is, in [0, 1]; ``verdict`` says it in words.
        picture, model_input: data URIs of the picture and of the model's input; ``None`` without a picture.
        evidence: ``None`` for an ONNX model.
        pictures: further pictures of the row, name → data URI.
        values: its other further contexts, name → value in words.
    """

    row: int
    text: list[Piece]
    whole_text: str | None
    answer: str | None
    answers: list[tuple[str, float]]
    correctness: float
    verdict: str
    is_sure: bool
    picture: str | None
    model_input: str | None
    evidence: Evidence | None
    pictures: dict[str, str]
    values: dict[str, str]


@dataclass
class Examples:
    """Rows that the report shows under one heading.

    Attributes:
        indices: indices of the rows.
        by_word: those of them that have a map of each word that did most.
    """

    title: str
    note: str
    indices: Sequence[int]
    by_word: Sequence[int]


def write_report(
    path: Path,
    figures: Evaluation,
    explained: ExplainedRows,
    predictions: Predictions,
    examples: Sequence[Examples],
) -> None:
    """Write ``report.html``. The page needs no other file and no network.

    Args:
        examples: rows of each gallery, see `choose_examples`.
    """
    model = explained.model
    page = (
        environment()
        .get_template("report.html.jinja")
        .render(
            source=explained.rows.source,
            figures=figures,
            both=figures.whole,
            judged=judged(figures),
            input_use=input_use_text(figures),
            advantage=advantage_text(figures),
            gaps=figures.inputs.lost | (figures.advantage.gained if figures.advantage else {}),
            trust=trust_text(figures),
            model=describe_model(model),
            size=model.config.image_size,
            explains=not isinstance(model, OnnxModel),
            role_warning=role_text(figures),
            galleries=[(chosen, make_cards(explained, predictions, chosen)) for chosen in examples],
            charts=draw_charts(figures),
        )
    )
    path.write_text(page, encoding="utf-8")


@cache
def environment() -> Environment:
    """The templates of reports, and their filters."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    found.filters |= {"percent": percent, "interval": interval, "points": signed_points, "zip": zip}
    return found


def interval(value: Interval) -> str:
    """Ends of an interval in percent."""
    return f"{100 * value.low:.1f} – {100 * value.high:.1f}"


def signed_points(value: float) -> str:
    """A difference in percentage points, with its sign."""
    return f"{100 * value:+.1f}"


def judged(figures: Evaluation) -> str:
    """The metric by which the use of the inputs is judged, in words."""
    return metric_name(figures.inputs.metric, figures.label_type)


def draw_charts(figures: Evaluation) -> dict[str, str]:
    """Name → SVG element of each chart."""
    found = {
        "inputs": charts.draw_inputs(figures.scores, figures.inputs.metric, judged(figures)),
        "reliability": charts.draw_reliability(figures.calibration.bins),
        "risk": charts.draw_risk(figures.calibration),
    }
    if figures.confusion:
        found["confusion"] = charts.draw_confusion(figures.confusion)
    if figures.deletion:
        check = figures.deletion
        found["deletion"] = charts.draw_deletion(check.fractions, check.deletion, "hidden")
        found["insertion"] = charts.draw_deletion(check.fractions, check.insertion, "revealed")
    return found


def choose_examples(rows: Rows, predictions: Predictions, number: int, chosen: Sequence[int]) -> list[Examples]:
    """Chosen rows, confident mistakes, confident correct answers, unsure answers, and evenly spaced rows.

    Args:
        number: rows under each heading; 0 for the chosen rows alone.
        chosen: indices of rows that are shown first.
    """
    correctness = predictions.correctness()
    confidences = confidence(predictions.whole, predictions.targets.label_type, predictions.thresholds)
    ranked = np.argsort(-confidences, kind="stable")
    wrong, correct = (ranked[(correctness == value)[ranked]][:number].tolist() for value in (0, 1))
    spaced = evenly_spaced_rows(rows, number)
    found = [
        Examples("Chosen rows", "from the command line", chosen, chosen),
        Examples("Worst mistakes", "wrong answers, the most confident first", wrong, wrong[:1]),
        Examples("Best answers", "correct answers, the most confident first", correct, correct[:1]),
        Examples("Least confident", "the lowest probability first", ranked[::-1][:number].tolist(), []),
        Examples("From first to last", "evenly spaced rows", spaced, spaced),
    ]
    return [examples for examples in found if len(examples.indices)]


def make_cards(explained: ExplainedRows, predictions: Predictions, examples: Examples) -> list[Card]:
    """The cards of some rows."""
    by_word = set(examples.by_word)
    return [make_card(explained, predictions, int(i), int(i) in by_word) for i in examples.indices]


def make_card(explained: ExplainedRows, predictions: Predictions, index: int, by_word: bool) -> Card:
    """One example row with its answers and its evidence; with ``by_word`` also maps of the words that did most."""
    model, rows, probabilities = explained.model, explained.rows, predictions.whole[index]
    best, form = np.argsort(-probabilities, kind="stable")[:3], LabelFormat.of(model.config)
    thresholds = predictions.thresholds
    explanation = None if isinstance(model, OnnxModel) else explained.explain(index, by_word)
    names = form.join(model.config.id2label[c] for c in answered(probabilities, form.type, thresholds))
    correctness = float(predictions.correctness()[index])
    text, picture = rows.texts[index] or "", None if rows.image_keys[index] is None else rows.decoded_image(index)
    further = explained.show_contexts(index)
    pieces = tint(text, explanation.words, explanation.effects) if explanation else [Piece(text)] if text else []
    return Card(
        int(rows.numbers[index]),
        pieces,
        text if explanation and len(explanation.words) > MAX_WORDS else None,
        (names or "none of the labels") if form.type == "multi" else None,
        [(model.config.id2label[int(c)], float(probabilities[c])) for c in best],
        correctness,
        correctness_text(correctness, rows.labels[index]),
        bool(confidence(probabilities[None], form.type, thresholds)[0] >= model.config.threshold),
        None if picture is None else to_data_uri(enlarged(explained.processor.fit_image(picture), SIDE)),
        None if picture is None else to_data_uri(model_input(explained.processor, picture)),
        None if explanation is None else show_evidence(explanation, by_word),
        {name: to_data_uri(value) for name, value in further.items() if isinstance(value, Image.Image)},
        {name: value for name, value in further.items() if isinstance(value, str)},
    )


def show_evidence(explanation: Explanation, by_word: bool) -> Evidence:
    """The evidence of a card; with ``by_word`` also maps of the words that did most."""
    has_image = explanation.image is not None
    return Evidence(
        explanation.answer,
        to_data_uri(explanation.overlay(None, SIDE)) if has_image else None,
        explanation.sentence,
        [
            (explanation.words[word], float(explanation.effects[word]), to_data_uri(explanation.overlay(word, SIDE)))
            for word in (explanation.top_words if by_word and has_image else [])
        ],
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
