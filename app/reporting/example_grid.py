"""Example rows with their explanations, in one picture."""

import textwrap
import unicodedata
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from app.evaluation.predict import Predictions
from app.explanation.drawn_explanations import explanation_figure, shorten
from app.explanation.options import MAX_MAPS
from app.reporting.explained_rows import ExplainedRows
from app.reporting.text import correctness_text
from data import LabelFormat, Rows
from models.decisions import answered, confidence

COLUMNS = 2 + MAX_MAPS
"""Pictures side by side: the picture, the evidence, and the words that did most."""
GAP = 24
"""Pixels between two rows."""
MAX_TEXT, LINE = 400, 130
"""Characters of a text in all, and on a line."""


def draw_examples(path: Path, explained: ExplainedRows, predictions: Predictions, chosen: Sequence[int]) -> None:
    """Write a picture with the explanations of some rows, given by index, below each other in one width."""
    pictures: list[Image.Image] = []
    correctness, probabilities = predictions.correctness(), predictions.whole
    config, rows = explained.model.config, explained.rows
    form, thresholds = LabelFormat.of(config), config.label_thresholds
    for i in chosen:
        answer = form.join(config.id2label[c] for c in answered(probabilities[i], form.type, thresholds)) or "none"
        probability = confidence(probabilities[i : i + 1], form.type, thresholds)[0]
        verdict = correctness_text(correctness[i], rows.labels[i])
        found = explained.explain(i, by_word=True)
        asked = wrap(rows.texts[i] or "no text") if config.has_text else []
        for name, value in found.contexts.items():
            asked += wrap(f"{name}: {value}") if isinstance(value, str) else []
        lines = [*asked, f"→ {answer} ({probability:.0%}, {verdict})"]
        figure = explanation_figure(found, "\n".join(lines), COLUMNS)
        buffer = BytesIO()
        figure.savefig(buffer, dpi=100)
        pictures.append(Image.open(buffer))
    if pictures:
        stack(pictures).save(path)


def wrap(text: str) -> list[str]:
    """Lines of at most `LINE` characters, with wide characters counted twice; a long text is cut."""
    text = shorten(text, MAX_TEXT)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return textwrap.wrap(text, LINE * len(text) // max(1, len(text) + wide) or 1) or [""]


def evenly_spaced_rows(rows: Rows, number: int, with_image: bool = False) -> list[int]:
    """Indices of up to ``number`` rows, evenly spaced over all rows or over those with an image."""
    found = [i for i in range(len(rows)) if not with_image or rows.image_keys[i] is not None]
    return [found[i] for i in np.linspace(0, len(found) - 1, min(number, len(found))).round().astype(int)]


def stack(pictures: list[Image.Image]) -> Image.Image:
    """Pictures below each other on white, with a line between two of them."""
    size = max(p.width for p in pictures), sum(p.height + GAP for p in pictures) - GAP
    canvas, top = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        if top:
            canvas.paste((200, 200, 200), (0, top - GAP // 2, canvas.width, top - GAP // 2 + 1))
        canvas.paste(picture, (0, top))
        top += picture.height + GAP
    return canvas
