"""Example rows with their explanations, in one picture."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from app.evaluation.predict import BOTH, Predictions
from app.explanation.attribution import explain
from app.explanation.figures import explanation_figure
from app.reporting.text import correctness_text
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
    """Write a picture with the explanations of some rows, given by index."""
    pictures: list[Image.Image] = []
    correctness, probabilities = predictions.correctness(), predictions.probabilities[BOTH]
    form = LabelFormat.of(model.config)
    for i in chosen:
        example = rows[i]
        assert example.text is not None
        best = int(probabilities[i].argmax())
        answer = form.join(model.config.id2label[c] for c in answered(probabilities[i], form.type)) or "none"
        probability = confidence(probabilities[i : i + 1], form.type)[0]
        title = f"{example.text}\n→ {answer} ({probability:.0%}, {correctness_text(correctness[i], rows.labels[i])})"
        figure = explanation_figure(explain(model, processor, rows.decoded_image(i), example.text, best), title)
        buffer = BytesIO()
        figure.savefig(buffer, dpi=100)
        pictures.append(Image.open(buffer))
    if pictures:
        stack(pictures).save(path)


def evenly_spaced_rows(rows: Rows, number: int) -> list[int]:
    """Indices of up to ``number`` rows with image and text, evenly spaced over all such rows."""
    with_both = [i for i in range(len(rows)) if rows.texts[i] and rows.image_keys[i] is not None]
    return [with_both[i] for i in np.linspace(0, len(with_both) - 1, min(number, len(with_both))).round().astype(int)]


def stack(pictures: list[Image.Image]) -> Image.Image:
    """Pictures below each other on white."""
    canvas = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas
