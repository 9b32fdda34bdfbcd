"""Example rows with their heat-maps, in one picture."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from app.evaluation.predict import MODALITIES, Predictions
from app.explanation.attribution import explain
from app.reporting.text import how_right
from data import LabelFormat, Rows
from models import ImageTextClassifier, ImageTextProcessor
from models.decisions import answered, confidence


def draw_examples(
    path: Path,
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    rows: Rows,
    predictions: Predictions,
    chosen: Sequence[int],
) -> None:
    """Heat-maps per word for some rows, right and wrong answers marked."""
    pictures: list[Image.Image] = []
    right, probabilities = predictions.right(), predictions.probabilities[MODALITIES[0]]
    form = LabelFormat.of(model.config)
    for i in chosen:
        example = rows[i]
        assert example.text is not None
        best = int(probabilities[i].argmax())
        answer = form.join(model.config.id2label[c] for c in answered(probabilities[i], form.type)) or "none"
        sure = confidence(probabilities[i : i + 1], form.type)[0]
        title = f"{example.text}\n→ {answer} ({sure:.0%}, {how_right(right[i], rows.labels[i])})"
        figure = explain(model, processor, rows.picture(i), example.text, best).figure(title)
        buffer = BytesIO()
        figure.savefig(buffer, dpi=100)
        pictures.append(Image.open(buffer))
    if pictures:
        stack(pictures).save(path)


def spread(rows: Rows, number: int) -> list[int]:
    """Up to ``number`` rows that have both image and text, at even distances over all of them."""
    with_both = [i for i in range(len(rows)) if rows.texts[i] and rows.image_keys[i] is not None]
    return [with_both[i] for i in np.linspace(0, len(with_both) - 1, min(number, len(with_both))).round().astype(int)]


def stack(pictures: list[Image.Image]) -> Image.Image:
    """Pictures one below another on white."""
    canvas = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas
