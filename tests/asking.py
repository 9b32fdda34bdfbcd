"""A small predictor, and what tests ask it."""

import io

import numpy as np
from PIL import Image

TEXT = "what color is the circle?"
COLORS = ["red", "lime", "blue"]


def plain(color: str) -> Image.Image:
    return Image.new("RGB", (40, 40), color)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def found(predictions) -> np.ndarray:
    """Probabilities ``(n, C)`` in the order of the labels."""
    return np.array(
        [[answer["probability"] for answer in sorted(p.answers, key=lambda a: a["label"])] for p in predictions]
    )
