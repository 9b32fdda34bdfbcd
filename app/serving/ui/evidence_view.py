"""The explanation of an answer on the page: layers over the picture, words with their effects, and the sentence."""

from __future__ import annotations

from functools import partial
from typing import TypedDict

from app.explanation.attribution import MATTERS, Explanation
from app.explanation.drawing import SPEAKS_AGAINST, SPEAKS_FOR, enlarged, paled
from app.inference.predictor import Predictor
from app.reporting.html_report import to_data_uri
from app.serving.engine import Engine
from app.serving.explanation_reply import encoded_layer, explain_example, max_maps
from app.serving.refusal import RefusedError
from app.serving.ui.answer_view import render
from data import Example
from models.onnx_classifier import OnnxModel

MIN_SIDE, MAX_SIDE = 560, 840
"""Longer side of the picture below the layers, in pixels."""
LONG_TEXT = 40
"""Words from which a text is running text, in which only the words that matter are drawn as buttons with numbers."""
WAITING = '<p class="empty" id="waiting">Looking for the places and words behind this answer …</p>'
WAITING_ONNX = (
    '<p class="empty" id="waiting">Looking for the places and words behind this answer. An ONNX model is explained by '
    "hiding one part of the picture after the other, which takes longer than the answer …</p>"
)


class WordView(TypedDict):
    """A word for the template: its effect in points, its share of the strongest effect, its layer and its note."""

    word: str
    effect: str
    share: float
    matters: bool
    layer: str | None
    note: str


def waiting_note(predictor: Predictor) -> str:
    """What stands in place of the explanation until it is there, as HTML."""
    return WAITING_ONNX if isinstance(predictor.model, OnnxModel) else WAITING


async def explain_answer(engine: Engine, example: Example) -> str:
    """Explain the answer to a prepared pair, as HTML; the reason if that fails."""
    try:
        return await engine.explain(partial(render_explanation, engine.predictor), [example])
    except RefusedError as error:
        return render("no_evidence", message=error.message)


def render_explanation(predictor: Predictor, examples: list[Example]) -> str:
    """The explanation of the answer to one prepared pair, as HTML."""
    explanation = explain_example(predictor, examples[0])
    number_of_maps = max_maps(predictor)
    picture = None
    if explanation.image is not None:
        picture = enlarged(explanation.image, min(max(*explanation.image.size, MIN_SIDE), MAX_SIDE))
    return render(
        "evidence",
        answer=explanation.answer,
        probability=explanation.probability,
        sentence=explanation.sentence,
        picture=picture and to_data_uri(picture),
        pale=picture and to_data_uri(paled(picture)),
        ratio=picture.width / picture.height if picture else 1,
        layer=layer_uri(explanation, None) if picture else None,
        has_region=explanation.region is not None,
        words=[word_view(explanation, word, number_of_maps) for word in range(len(explanation.words))],
        is_long=len(explanation.words) > LONG_TEXT,
        is_occlusion=explanation.method == "occlusion",
        speaks_for=SPEAKS_FOR,
        speaks_against=SPEAKS_AGAINST,
    )


def word_view(explanation: Explanation, word: int, number_of_maps: int) -> WordView:
    """A word for the template."""
    effect, most = float(explanation.effects[word]), float(abs(explanation.effects).max())
    has_map = explanation.image is not None and word in explanation.word_evidence
    note = (
        f"“{explanation.words[word].strip()}” changes the probability of “{explanation.answer}” by {points(effect, 1)}"
    )
    if explanation.image is not None and not has_map:
        most_words = "the word that does most" if number_of_maps == 1 else f"the {number_of_maps} words that do most"
        note += f"; it has no map. Maps are for {most_words}, if that is {MATTERS * 100:g} point or more"
    return WordView(
        word=explanation.words[word].strip(),
        effect=points(effect),
        share=abs(effect) / most if most > 0 else 0.0,
        matters=abs(effect) >= MATTERS,
        layer=layer_uri(explanation, word) if has_map else None,
        note=f"{note}.",
    )


def points(effect: float, digits: int = 0) -> str:
    """A change of a probability in percentage points, with its sign."""
    value = f"{100 * effect:+.{digits}f}".replace("-", "−")
    shown = "0" if not value.strip("+−0.") else value
    return f"{shown} points" if digits else shown


def layer_uri(explanation: Explanation, word: int | None) -> str:
    """The map of a word, or of the answer, as a ``data:`` URI."""
    return f"data:image/png;base64,{encoded_layer(explanation, word)}"
