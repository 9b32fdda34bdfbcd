"""The region that an answer rests on: most of its evidence, checked by hiding it and asking again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from app.explanation.hiding import hide
from models import ImageTextClassifier
from models.onnx_classifier import OnnxModel

SHARES = (0.5, 0.75, 0.9)
"""Shares of the evidence for the answer that regions hold; the first region that matters is taken."""
ELSEWHERE = 2
"""Places elsewhere that a region is compared with."""
MATTERS = 0.05
"""Smallest loss of probability, beyond that of hiding other places, at which a region matters."""
SMOOTHING = 1 / 32
"""Standard deviation of the Gaussian that joins the evidence to regions, and their margin, as a share of the side."""


@dataclass(frozen=True)
class Region:
    """A region with much of the evidence for an answer, and a test of it on this picture.

    Attributes:
        mask: ``(S, S)`` bool, in the model's input picture.
        evidence_share: share of the evidence for the answer that the region holds.
        whole: probability of the answer.
        hidden: probability of the answer without the region.
        elsewhere: mean probability of the answer with as many other pixels hidden.
    """

    mask: np.ndarray
    evidence_share: float
    whole: float
    hidden: float
    elsewhere: float

    @property
    def share(self) -> float:
        """Share of the picture, in [0, 1]."""
        return float(self.mask.mean())

    @property
    def matters(self) -> bool:
        """Whether hiding the region lowers the probability clearly more than hiding as much elsewhere."""
        return min(self.elsewhere, self.whole) - self.hidden >= MATTERS

    def sentence(self, answer: str) -> str:
        """What hiding the region does to the answer, in words."""
        area = "less than 1%" if self.share < 0.005 else f"{self.share:.0%}"
        whole, hidden, elsewhere = (f"{value:.0%}" for value in (self.whole, self.hidden, self.elsewhere))
        if self.matters:
            return (
                f"Hiding this region ({area} of the picture) lowers “{answer}” from {whole} to {hidden}; hiding as "
                f"much elsewhere gives {elsewhere}."
            )
        return (
            f"No place in particular carries “{answer}” ({whole}): without the region of most evidence ({area} of the "
            f"picture) it has {hidden}, without as much elsewhere {elsewhere}."
        )


def strongest_regions(evidence: np.ndarray, side: int) -> np.ndarray:
    """For each of `SHARES` the smallest set of pixels with this share of the positive evidence, and a margin.

    Hidden pixels are filled from their surroundings, so without the margin the edge of an object would fill it again.

    Shape:
        - evidence: ``(h, w)``
        - returns: ``(len(SHARES), side, side)`` bool; empty sets if there is no evidence for the answer
    """
    values = torch.from_numpy(np.ascontiguousarray(evidence, dtype=np.float32))[None, None]
    values = F.interpolate(values, size=(side, side), mode="bilinear", align_corners=False)
    sigma = SMOOTHING * side
    values = gaussian_blur(values.clamp_min(0), [2 * round(3 * sigma) + 1] * 2, [sigma, sigma]).flatten()
    ranked, order = values.double().sort(descending=True)
    masks = torch.zeros(len(SHARES), side * side, dtype=torch.bool)
    for mask, share in zip(masks, SHARES, strict=True):
        number = int((ranked.cumsum(0) < share * ranked.sum()).sum()) + 1
        mask[order[:number]] = bool(ranked[0] > 0)
    margin = round(SMOOTHING * side)
    grown = F.max_pool2d(masks.view(-1, 1, side, side).float(), 2 * margin + 1, stride=1, padding=margin)
    return grown[:, 0].bool().numpy()


def random_regions(region: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Regions of the same number of pixels outside a region, in blobs: the highest values of smooth random fields.

    If fewer pixels are left outside, all of them.

    Shape:
        - region: ``(S, S)`` bool
        - returns: ``(number, S, S)`` bool
    """
    side = len(region)
    coarse = torch.from_numpy(rng.random((number, 1, 5, 5), dtype=np.float32))
    fields = F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)[:, 0].numpy()
    fields = np.where(region, -np.inf, fields).reshape(number, -1)
    size = min(int(region.sum()), int((~region).sum()))
    masks = np.zeros((number, side * side), dtype=bool)
    np.put_along_axis(masks, np.argsort(-fields, axis=1)[:, :size], True, axis=1)
    return masks.reshape(number, side, side)


@torch.no_grad()
def decisive_region(
    model: ImageTextClassifier | OnnxModel,
    pixels: Tensor,
    text: dict[str, Tensor],
    answer: int,
    probability: float,
    evidence: np.ndarray,
) -> Region | None:
    """The smallest of `strongest_regions` that matters, else the first; ``None`` without evidence for the answer.

    The model is asked again without each region, and without as much elsewhere.

    Args:
        pixels: the model's input picture ``(3, S, S)``.
        text: ``input_ids`` and ``attention_mask`` of one text ``(1, L)``, absent for a picture alone; and ``contexts``.
        answer: class number.
        probability: that of the answer for the whole picture.
        evidence: ``(h, w)``.
    """
    masks = strongest_regions(evidence, pixels.shape[-1])
    if not masks.any():
        return None

    def without(hidden: np.ndarray) -> float:
        """Mean probability of the answer without each of some regions ``(B, S, S)``."""
        regions = torch.from_numpy(hidden).to(pixels.device)
        return float(ask(model, hide(pixels.expand(len(regions), -1, -1, -1), regions), text)[:, answer].mean())

    def test(mask: np.ndarray, share: float, hidden: float) -> Region:
        others = random_regions(mask, ELSEWHERE, np.random.default_rng(0))
        return Region(mask, share, probability, hidden, without(others))

    found = []
    for mask, share in zip(masks, SHARES, strict=True):
        found.append(without(mask[None]))
        if probability - found[-1] >= MATTERS and (region := test(mask, share, found[-1])).matters:
            return region
    return test(masks[0], SHARES[0], found[0])


def ask(model: ImageTextClassifier | OnnxModel, pictures: Tensor, text: dict[str, Tensor]) -> Tensor:
    """Probabilities ``(B, C)`` of several input pictures with the same text.

    Args:
        pictures: ``(B, 3, S, S)``.
        text: ``input_ids`` and ``attention_mask`` ``(1, L)``, absent for pictures alone; and ``contexts`` of the pair.
    """
    image_index = torch.arange(len(pictures), device=pictures.device)
    text_index = torch.full_like(image_index, 0 if "input_ids" in text else -1)
    logits = model(pixel_values=pictures, **text, image_index=image_index, text_index=text_index).logits
    assert logits is not None
    return model.probabilities(logits)
