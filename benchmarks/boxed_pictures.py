"""Pictures with a question about one thing in them, and the box of that thing."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from data.shapes import CELL, draw_scene, paint

MARGIN = 2
"""Pixels by which a box grows when the evidence inside is summed."""
BACKGROUND = 12
"""Largest difference of a background pixel from the corner of the picture, in any channel."""


@dataclass(frozen=True)
class Case:
    """A picture, a question about one thing in it, the right answer, and the box of the thing ``(H, W)`` bool."""

    image: Image.Image
    text: str
    answer: str
    box: np.ndarray


def shapes_cases(number: int, seed: int = 7) -> Iterator[Case]:
    """Fresh pictures with two or three shapes, and the colour of one of them as the question."""
    rng = random.Random(seed)
    for _ in range(number):
        scene = draw_scene(rng)
        while len(scene) == 1:
            scene = draw_scene(rng)
        image = paint(scene, rng)
        place, (color, shape) = rng.choice(sorted(scene.items()))
        foreground = find_foreground(image)
        quarter = np.zeros_like(foreground)
        rows = slice(CELL, None) if "bottom" in place else slice(0, CELL)
        columns = slice(CELL, None) if "right" in place else slice(0, CELL)
        quarter[rows, columns] = foreground[rows, columns]
        yield Case(image, f"what color is the {shape}?", color, fill_box(quarter))


def easy_vqa_cases(folder: Path, number: int) -> Iterator[Case]:
    """Questions for the colour or the shape of the one thing in a test picture of easy-VQA."""
    table = pd.read_csv(folder / "test.csv")
    table = table[table.question.str.startswith("what")]
    for row in table.groupby("image").first().reset_index().sample(number, random_state=0).itertuples():
        image = Image.open(folder / row.image).convert("RGB")
        yield Case(image, row.question, row.answer, fill_box(find_foreground(image)))


def find_foreground(image: Image.Image) -> np.ndarray:
    """Pixels that differ from the background, the colour of the corner."""
    pixels = np.asarray(image).astype(int)
    return np.abs(pixels - pixels[0, 0]).max(axis=2) > BACKGROUND


def fill_box(mask: np.ndarray) -> np.ndarray:
    """The bounding box of a mask, as a mask."""
    (top, *_, bottom), (left, *_, right) = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = np.zeros_like(mask)
    box[top : bottom + 1, left : right + 1] = True
    return box


def grow(box: np.ndarray) -> np.ndarray:
    """The box with a margin."""
    rows, columns = (np.flatnonzero(box.any(axis=axis)) for axis in (1, 0))
    grown = np.zeros_like(box)
    grown[max(rows[0] - MARGIN, 0) : rows[-1] + MARGIN + 1, max(columns[0] - MARGIN, 0) : columns[-1] + MARGIN + 1] = 1
    return grown
