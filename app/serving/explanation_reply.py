"""Explanations of answers, for the page and for replies of the API."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Literal

import numpy as np

from app.explanation.attribution import Explanation
from app.inference.predictor import Predictor
from app.serving.schemas import ExplanationReply, RegionReply, WordReply
from data import Example
from models.onnx_classifier import OnnxModel

MAX_MAPS = 6
"""Words with a map."""
MAX_MAPS_ONNX = 1
"""The same for an ONNX model: each map takes as many passes of the image encoder as there are windows."""
LAYER_SIDE = 448
"""Longer side of a map as a picture, in pixels."""
DIGITS = 4
"""Significant digits of the numbers of a map."""


def max_maps(predictor: Predictor) -> int:
    """Number of words that get a map."""
    return MAX_MAPS_ONNX if isinstance(predictor.model, OnnxModel) else MAX_MAPS


def explain_example(predictor: Predictor, example: Example) -> Explanation:
    """Explain the most probable answer to a prepared pair."""
    return predictor.explain_example(example, max_maps=max_maps(predictor))


def explain_all(
    predictor: Predictor, form: Literal["png", "numbers"], examples: Sequence[Example]
) -> list[ExplanationReply]:
    """Explanations of prepared pairs, with maps in one of two forms."""
    return [to_reply(explain_example(predictor, example), form) for example in examples]


def to_reply(explanation: Explanation, form: Literal["png", "numbers"]) -> ExplanationReply:
    """An explanation as a reply of the API."""
    draw: Callable[[int | None], str | list[list[float]]]
    draw = (
        (lambda word: encoded_layer(explanation, word)) if form == "png" else (lambda word: numbers(explanation, word))
    )
    has_image, region = explanation.image is not None, explanation.region
    return ExplanationReply(
        answer=explanation.answer,
        probability=explanation.probability,
        method=explanation.method,
        sentence=explanation.sentence,
        region=None
        if region is None
        else RegionReply(
            share=region.share,
            whole=region.whole,
            hidden=region.hidden,
            elsewhere=region.elsewhere,
            matters=bool(region.matters),
        ),
        map=draw(None) if has_image else None,
        words=[
            WordReply(
                word=word,
                effect=float(effect),
                map=draw(number) if has_image and number in explanation.word_evidence else None,
            )
            for number, (word, effect) in enumerate(zip(explanation.words, explanation.effects, strict=True))
        ],
    )


def encoded_layer(explanation: Explanation, word: int | None) -> str:
    """The map of a word, or of the answer, as a transparent PNG in base64; it has the shape of the picture."""
    assert explanation.image is not None
    width, height = explanation.image.size
    scale = LAYER_SIDE / max(width, height)
    layer, file = explanation.layer(word, (max(1, round(scale * width)), max(1, round(scale * height)))), BytesIO()
    layer.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def numbers(explanation: Explanation, word: int | None) -> list[list[float]]:
    """The map of a word, or of the answer, as rows of numbers."""
    heat = explanation.evidence if word is None else explanation.word_evidence[word]
    return [[float(f"{value:.{DIGITS}g}") for value in row] for row in np.asarray(heat, dtype=np.float64).tolist()]
