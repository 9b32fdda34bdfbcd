"""An answer on the page: labels, heat-map and the inputs of the model, as HTML."""

from __future__ import annotations

import asyncio
import html
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from app.inference.predictor import Predictor
from app.reporting.html_report import model_input, to_data_uri
from app.serving.engine import Engine
from data import Example
from data.errors import UserError
from data.messages import excerpt_path
from models.onnx_classifier import OnnxModel

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
NUM_ANSWERS = 5
MAX_SIDE = 840
"""Longest side of the picture below the heat-map, in pixels."""
THUMBNAIL_SIDE = 88
MAX_HISTORY_TEXT = 200
"""Characters of a text in the history."""


class HistoryEntry(TypedDict):
    """A question of this session: thumbnail as ``data:`` URI, text, answer, and whether the answer is sure."""

    picture: str | None
    text: str
    answer: str
    sure: bool


async def answer_question(engine: Engine, path: str | None, text: str | None) -> tuple[str, HistoryEntry]:
    """Answer one question as HTML, and as an entry of the history.

    Raises:
        UserError: the picture or the text is invalid.
        RefusedError: see `Engine.ask`.
    """
    predictor = engine.predictor
    (example,), probabilities = await engine.ask([(path, text)])
    if isinstance(example, UserError):
        raise UserError(str(example).replace(f" {excerpt_path(str(path))}", ""))  # without the path on the server
    found = predictor.to_predictions(probabilities[0][None], NUM_ANSWERS)[0]
    engine.count_answer(found.is_sure)
    template = templates().get_template("answer.html.jinja")
    rendered = template.render(
        labels=found.labels,
        is_sure=found.is_sure,
        confidence=found.confidence,
        threshold=predictor.model.config.threshold,
        has_image=example.image is not None,
        has_text=example.text is not None,
        answers=[(answer["label"], answer["probability"]) for answer in found.answers],
        **await asyncio.to_thread(model_inputs, predictor, example),
        **await engine.explain(heat_map, predictor, example),
    )
    answer = ", ".join(found.labels) or "none of the labels"
    entry = HistoryEntry(picture=thumbnail(example), text=example.text or "", answer=answer, sure=found.is_sure)
    return rendered, entry


@lru_cache
def templates() -> Environment:
    return Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined)


def thumbnail(example: Example) -> str | None:
    """A small copy of the picture as a ``data:`` URI."""
    if not isinstance(example.image, Image.Image):
        return None
    picture = example.image.copy()
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return to_data_uri(picture)


def model_inputs(predictor: Predictor, example: Example) -> dict[str, str | None]:
    """The picture at the size of the model, and how much of the text the model reads, for the template."""
    picture, size = None, ""
    if isinstance(example.image, Image.Image):
        picture, side = to_data_uri(model_input(predictor.processor, example.image)), predictor.model.config.image_size
        size = f"{example.image.width} × {example.image.height} px, resized to {side} × {side}"
    if example.text is None:
        return {"input_picture": picture, "input_size": size, "input_text": "No text."}
    tokenizer = predictor.processor.tokenizer
    (number,), limit = predictor.processor.count_tokens([example.text]), tokenizer.model_max_length
    read = f"The whole text, {number} tokens."
    if number > limit:
        encoding = tokenizer(example.text, truncation=True)
        end = max((span[1] for span in map(encoding.token_to_chars, range(limit)) if span), default=0)
        read = f"Only the first {limit} of {number} tokens, up to “…{example.text[max(0, end - 30) : end]}”."
    return {"input_picture": picture, "input_size": size, "input_text": read}


def heat_map(predictor: Predictor, example: Example) -> dict[str, Any]:
    """The picture and the values that the viewer draws over it, for the template.

    ``heat`` is ``None`` for an ONNX model, without image or text, and if the explanation fails.
    """
    explains = not isinstance(predictor.model, OnnxModel)
    if not explains or not isinstance(example.image, Image.Image) or example.text is None:
        return {"heat": None}
    try:
        explanation = predictor.explain(example.image, example.text)
    except Exception:  # the answer is shown without a heat-map
        log.exception("no heat-map")
        return {"heat": None}
    picture = example.image.copy()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    attention = {level: np.round(maps, 4).tolist() for level, maps in explanation.attention.items()}
    return {
        "heat": {
            "answer": np.round(explanation.answer_weights, 4).tolist(),
            "effects": np.round(explanation.effects, 4).tolist(),
            "attention": attention,
        },
        "picture": to_data_uri(picture),
        "width": picture.width,
        "height": picture.height,
        "words": explanation.words,
        "levels": list(attention),
        "heads": len(next(iter(explanation.attention.values()), [])),
    }


def history_list(entries: list[HistoryEntry]) -> str:
    """The history as an HTML list."""
    lines = []
    for entry in entries:
        picture = f'<img src="{entry["picture"]}" alt="">' if entry["picture"] else ""
        unsure = "" if entry["sure"] else ' <span class="note">(not sure)</span>'
        text = html.escape(entry["text"][:MAX_HISTORY_TEXT] or "no text")
        lines.append(f"<li>{picture}<div>{text}<br><b>{html.escape(entry['answer'])}</b>{unsure}</div></li>")
    return f'<ul class="history">{"".join(lines)}</ul>'
