"""The deletion check: hiding the hottest cells must lower the probability more than hiding random cells."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from app.evaluation.bootstrap import Resampler, mean_interval
from app.evaluation.figures import Deletion
from app.explanation.attribution import explain
from data import Rows
from models import ImageTextClassifier, ImageTextProcessor

FRACTIONS = np.linspace(0, 1, 9)
"""Shares of the image that are hidden."""
DRAWS = 4
"""Random orders for each row that heat-maps are compared with."""


def deletion_figures(
    model: ImageTextClassifier, processor: ImageTextProcessor, rows: Rows, indices: Sequence[int], groups: np.ndarray
) -> Deletion:
    """Probability of the answer while the image is hidden, hottest cells first (RISE, Petsiuk et al. 2018).

    The answer is that for the whole image. The heat-maps are ``answer``, each position's share in the answer;
    ``words``, the sum of the words' effects; ``attention``, the attention to the word for which positions differ most;
    and ``random``, random orders.

    Args:
        indices: the rows of the check; they need image and text.
        groups: group of each of all rows ``(n,)``, for the intervals.
    """
    found: dict[str, list[np.ndarray]] = {}
    for i in indices:
        example = rows[i]
        assert example.text is not None
        of_row = deletion_curves(model, processor, rows.decoded_image(i), example.text, np.random.default_rng(i))
        for name, curve in of_row.items():
            found.setdefault(name, []).append(curve)
    curves = {name: np.stack(of_rows) for name, of_rows in found.items()}
    chosen, resampler = np.asarray(indices), Resampler(groups[np.asarray(indices)])
    weights = None if rows.weights is None else rows.weights[chosen]
    areas = {name: np.trapezoid(curve, FRACTIONS, axis=1) for name, curve in curves.items()}
    return Deletion(
        rows=len(indices),
        fractions=FRACTIONS.tolist(),
        curves={name: np.average(curve, axis=0, weights=weights).tolist() for name, curve in curves.items()},
        drop={
            name: mean_interval(areas["random"] - area, resampler, least=-1, weights=weights)
            for name, area in areas.items()
            if name != "random"
        },
    )


@torch.inference_mode()
def deletion_curves(
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    image: Image.Image,
    text: str,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Heat-map, or "random" → probability of the answer at each of `FRACTIONS` ``(F,)``, for one image and text."""
    explanation = explain(model, processor, image, text)
    heats = {"answer": explanation.answer_weights, "words": explanation.effects.sum(axis=0)}
    shape = explanation.answer_weights.shape
    if explanation.attention:  # without words the map is constant, and the order random
        heats["attention"] = max(explanation.maps("attention"), key=np.ptp, default=np.zeros(shape))
    heats |= {f"random {draw}": rng.random(shape) for draw in range(DRAWS)}
    orders = {name: rank(heat, rng) for name, heat in heats.items()}
    pictures = [hide(image, order < fraction * order.size) for order in orders.values() for fraction in FRACTIONS[1:-1]]
    pictures += [image, hide(image, np.ones(shape, dtype=bool))]
    inputs = processor(pictures, [text] * len(pictures)).to(model.device)
    probabilities = model.probabilities(model(**inputs).logits)
    of_answer = probabilities[:, probabilities[-2].argmax()].cpu().numpy()
    inner = of_answer[:-2].reshape(len(orders), -1)
    curves = {
        name: np.concatenate([of_answer[-2:-1], row, of_answer[-1:]]) for name, row in zip(orders, inner, strict=True)
    }
    draws = [curves.pop(f"random {draw}") for draw in range(DRAWS)]
    return curves | {"random": np.mean(draws, axis=0)}


def rank(heat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rank of each cell, 0 for the hottest; equal cells in random order."""
    order = np.lexsort((rng.random(heat.size), -heat.ravel()))
    places = np.empty(heat.size, dtype=int)
    places[order] = np.arange(heat.size)
    return places.reshape(heat.shape)


def hide(image: Image.Image, cells: np.ndarray) -> Image.Image:
    """The image with the cells of a mask ``(h, w)`` painted in its mean colour."""
    mask = Image.fromarray((cells * 255).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    mean = tuple(np.asarray(image).reshape(-1, 3).mean(axis=0).round().astype(int).tolist())
    return Image.composite(Image.new("RGB", image.size, mean), image, mask)
