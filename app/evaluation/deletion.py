"""The deletion check: hiding the places with most evidence must lower the probability more than hiding others."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.nn import functional as F

from app.evaluation.bootstrap import Resampler, mean_interval
from app.evaluation.figures import Deletion
from app.explanation.attribution import pair_indices
from app.explanation.evidence import PATH, WINDOWS, default_method, evidence
from app.explanation.hiding import hide
from app.explanation.region import ask
from data import Rows
from data.collate import row_contexts
from models import ImageTextClassifier, ImageTextProcessor
from models.onnx_classifier import OnnxModel

FRACTIONS = (0.0, 0.05, 0.2, 0.4)
"""Shares of the picture that are hidden or revealed."""
SHOWN = 0.2
"""The share that is reported in words."""
GRID = 14
"""Cells along each side of the picture; fewer for a coarser map."""
COST = 0.1
"""Share of the evaluation's passes of the image encoder that the check may add."""
MIN_ROWS, MAX_ROWS = 8, 200
"""Fewest rows of the check, unless there are fewer with an image, and most."""


def num_checked(passes: int, model: ImageTextClassifier | OnnxModel) -> int:
    """Rows that are checked if no number is given: as many as `COST` allows, from `MIN_ROWS` to `MAX_ROWS`.

    Args:
        passes: pictures that the image encoder reads in the evaluation; a backward pass counts as two.
    """
    of_map = 3 * len(PATH) if default_method(model) == "integrated_gradients" else 1 + WINDOWS**2
    of_row = of_map + 2 + 2 * 2 * (len(FRACTIONS) - 1)
    return min(max(int(COST * passes) // of_row, MIN_ROWS), MAX_ROWS)


def deletion_figures(
    model: ImageTextClassifier | OnnxModel,
    processor: ImageTextProcessor,
    rows: Rows,
    indices: Sequence[int],
    groups: np.ndarray,
    answers: np.ndarray,
    maps: Mapping[int, np.ndarray],
) -> Deletion:
    """Probability of the answer while cells of the picture are hidden or revealed (RISE, Petsiuk et al. 2018).

    The cells with most evidence for the answer, by the default method of the model, come first. The comparison is a
    random order of the same cells, another for each row; its spread is part of the intervals.

    Args:
        indices: the rows of the check; they need an image.
        groups: group of each of all rows ``(n,)``, for the intervals.
        answers: class of the answer to each of all rows ``(n,)``.
        maps: index of a row → its map, for rows whose map is known.
    """
    device, method = next(model.parameters(), torch.zeros(0)).device, default_method(model)
    found = []
    for i in indices:
        text = rows.texts[i]
        image = rows.decoded_image(i, model.config.image_size)
        inputs = dict(processor([image], [text] if text else None).to(device))
        inputs |= send_to_device(row_contexts(model, processor, rows, i), device)
        if (heat := maps.get(i)) is None:
            pair = inputs | pair_indices(True, bool(text), device)
            heat = evidence(model, pair, torch.tensor([answers[i]], device=device), method)[0].cpu().numpy()
        found.append(curves_of_row(model, inputs, int(answers[i]), heat, np.random.default_rng(i)))
    curves = np.stack(found)  # (rows, 2, 2, F)
    chosen, resampler = np.asarray(indices), Resampler(groups[np.asarray(indices)])
    weights = None if rows.weights is None else rows.weights[chosen]
    areas = areas_beyond_random(curves)
    beyond = curves[:, 0, 1] - curves[:, 0, 0]
    means = np.average(curves, axis=0, weights=weights).tolist()
    orders = (method, "random")
    return Deletion(
        rows=len(indices),
        method=method,
        fractions=list(FRACTIONS),
        deletion=dict(zip(orders, means[0], strict=True)),
        insertion=dict(zip(orders, means[1], strict=True)),
        areas={
            name: mean_interval(area, resampler, least=-1, weights=weights)
            for name, area in zip(("deletion", "insertion"), areas.T, strict=True)
        },
        share=SHOWN,
        beyond_random=mean_interval(beyond[:, FRACTIONS.index(SHOWN)], resampler, least=-1, weights=weights),
    )


def areas_beyond_random(curves: np.ndarray) -> np.ndarray:
    """Mean difference from the random order over the fractions, of deletion and insertion, in [-1, 1].

    Positive if the places with most evidence matter more.

    Shape:
        - curves: ``(..., 2, 2, F)``, see `curves_of_row`
        - returns: ``(..., 2)``
    """
    deletion = curves[..., 0, 1, :] - curves[..., 0, 0, :]
    insertion = curves[..., 1, 0, :] - curves[..., 1, 1, :]
    return np.trapezoid(np.stack([deletion, insertion], axis=-2), FRACTIONS, axis=-1) / FRACTIONS[-1]


@torch.no_grad()
def curves_of_row(
    model: ImageTextClassifier | OnnxModel,
    inputs: dict[str, Tensor],
    answer: int,
    heat: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Probability of an answer at each of `FRACTIONS`, hidden and revealed, by evidence and at random ``(2, 2, F)``.

    Args:
        inputs: ``pixel_values (1, 3, S, S)``, and ``input_ids`` and ``attention_mask (1, L)`` unless there is no text.
        heat: map of the evidence ``(h, w)``.
    """
    pixels = inputs["pixel_values"]
    texts = {name: value for name, value in inputs.items() if name != "pixel_values"}
    side = min(GRID, *heat.shape)
    cells = F.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(heat))[None].float(), side)[0].numpy()
    orders = np.stack([rank(cells, rng), rank(np.zeros_like(cells), rng)])
    numbers = np.round(np.array(FRACTIONS[1:]) * cells.size)
    first = orders[:, None] < numbers[:, None, None]  # (2, F - 1, side, side)
    nothing = np.zeros((1, side, side), dtype=bool)
    masks = np.concatenate([nothing, ~nothing, *first, *~first])
    places = np.arange(pixels.shape[-1]) * side // pixels.shape[-1]  # cell of each pixel along a side
    hidden = torch.from_numpy(masks[:, places[:, None], places]).to(pixels.device)
    found = ask(model, hide(pixels.expand(len(hidden), -1, -1, -1), hidden), texts)[:, answer].float().cpu().numpy()
    starts = np.broadcast_to(found[:2, None, None], (2, 2, 1))
    return np.concatenate([starts, found[2:].reshape(2, 2, -1)], axis=2)


def rank(heat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rank of each cell, 0 for the one with most evidence; equal cells in random order."""
    order = np.lexsort((rng.random(heat.size), -heat.ravel()))
    places = np.empty(heat.size, dtype=int)
    places[order] = np.arange(heat.size)
    return places.reshape(heat.shape)
