"""An answer on the page: labels and the inputs of the model, as HTML."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from app.inference.predictor import Prediction, Predictor
from app.reporting.html_report import model_input, to_data_uri
from app.serving.engine import Cells, Engine
from data import Example
from data.errors import UserError
from data.messages import excerpt_path, percents

HERE = Path(__file__).parent
NUM_ANSWERS = 5
THUMBNAIL_SIDE = 88
MAX_HISTORY_TEXT = 200
"""Characters of a text in the history."""


class HistoryEntry(TypedDict):
    """A question of this session: thumbnail as ``data:`` URI, text, answer, and whether the answer is sure."""

    picture: str | None
    text: str
    answer: str
    sure: bool


@dataclass(frozen=True)
class Answered:
    """A prepared pair with its answer, as HTML and as an entry of the history."""

    example: Example
    html: str
    entry: HistoryEntry


async def answer_question(engine: Engine, path: str | None, text: str | None, contexts: Cells) -> Answered:
    """Answer one question.

    Args:
        contexts: further contexts by name.

    Raises:
        UserError: the picture or the text is invalid.
        RefusedError: see `Engine.ask`.
    """
    predictor = engine.predictor
    (example,), probabilities = await engine.ask([(path, text, contexts)])
    if isinstance(example, UserError):
        cells = () if isinstance(contexts, UserError) else contexts.values()
        raise UserError(without_paths(str(example), [path, *(cell.value for cell in cells if cell is not None)]))
    found = predictor.to_predictions(probabilities[0][None], NUM_ANSWERS)[0]
    engine.count_answer(found.is_sure)
    threshold = predictor.model.config.threshold
    shown = [text.replace("%", " %") for text in percents(found.confidence, threshold)]
    rendered = render(
        "answer",
        labels=found.labels,
        is_sure=found.is_sure,
        confidence=shown[0],
        threshold=None if threshold > 1 else shown[1],
        has_image=example.image is not None,
        has_text=example.text is not None,
        answers=bars(found),
    )
    answer = ", ".join(found.labels) or "none of the labels"
    entry = HistoryEntry(picture=thumbnail(example), text=example.text or "", answer=answer, sure=found.is_sure)
    return Answered(example, rendered, entry)


def without_paths(message: str, inputs: Iterable[object]) -> str:
    """A message without the paths on the server of the inputs that are uploaded files."""
    for path in (found for found in inputs if isinstance(found, str) and Path(found).is_absolute()):
        message = message.replace(f" {excerpt_path(path)}", "")
    return message


async def inputs_of_model(predictor: Predictor, example: Example) -> str:
    """What the model receives, as HTML."""
    return render("inputs", **await asyncio.to_thread(model_inputs, predictor, example))


def bars(found: Prediction) -> list[tuple[str, float]]:
    """The most probable labels with their probabilities, for the templates."""
    return [(str(answer["label"]), float(answer["probability"])) for answer in found.answers]


def render(template: str, **values) -> str:
    """Fill a template."""
    return templates().get_template(f"{template}.html.jinja").render(**values)


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
        picture, side = to_data_uri(model_input(predictor.processor, example.image)), predictor.model.config.input_size
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


def history_list(entries: list[HistoryEntry]) -> str:
    """The history as an HTML list."""
    lines = []
    for entry in entries:
        picture = f'<img src="{entry["picture"]}" alt="">' if entry["picture"] else ""
        unsure = "" if entry["sure"] else ' <span class="note">(not sure)</span>'
        text = html.escape(entry["text"][:MAX_HISTORY_TEXT] or "no text")
        lines.append(f"<li>{picture}<div>{text}<br><b>{html.escape(entry['answer'])}</b>{unsure}</div></li>")
    return f'<ul class="history">{"".join(lines)}</ul>'
