"""Drawing of evidence: colour over the picture where there is evidence, and a contour around the decisive region."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation

SPEAKS_FOR, SPEAKS_AGAINST = (230, 97, 1), (33, 102, 172)
"""Colours of evidence for and against the answer (ColorBrewer): orange and blue differ for colour-blind readers."""
MAX_OPACITY = 0.8
GAMMA = 0.7
"""Exponent of the opacity: below 1, so that half of the evidence is more than half visible."""


def evidence_layer(evidence: np.ndarray, most: float, size: tuple[int, int], region: np.ndarray | None = None):
    """A transparent layer of evidence, to be laid over a picture.

    The opacity follows the evidence, from none (0) to `MAX_OPACITY` (``most`` or more).

    Args:
        evidence: ``(h, w)``, positive for the answer.
        most: evidence drawn with the full opacity.
        size: width and height of the layer in pixels.
        region: ``(h', w')`` bool, drawn as a contour.

    Returns:
        An RGBA image.
    """
    smooth = resize(evidence, size)
    share = np.clip(np.abs(smooth) / most, 0, 1) if most > 0 else np.zeros_like(smooth)
    layer = np.zeros((*smooth.shape, 4), dtype=np.uint8)
    layer[..., :3] = np.where(smooth[..., None] >= 0, SPEAKS_FOR, SPEAKS_AGAINST)
    layer[..., 3] = (255 * MAX_OPACITY * share**GAMMA).round()
    if region is not None and region.any():
        draw_contour(layer, resize(region.astype(np.float32), size) > 0.5)
    return Image.fromarray(layer, "RGBA")


def draw_contour(layer: np.ndarray, region: np.ndarray) -> None:
    """Draw a white line with a dark edge, visible on any picture, around a region of a layer ``(H, W, 4)``."""
    width = max(1, round(max(region.shape) / 250))
    outside = binary_dilation(region, iterations=width)
    layer[binary_dilation(outside, iterations=width) & ~outside] = (20, 20, 20, 255)
    layer[outside & ~region] = (255, 255, 255, 255)


def resize(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values ``(h, w)`` interpolated to width and height ``size``."""
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def overlay(image: Image.Image, layer: Image.Image) -> Image.Image:
    """The picture, with pale colours, under a layer of the same size: no colour of its own looks like evidence."""
    return Image.alpha_composite(paled(image).convert("RGBA"), layer).convert("RGB")


def paled(image: Image.Image) -> Image.Image:
    """The picture with a fifth of its colour, and a little lighter."""
    grey = Image.blend(image.convert("L").convert("RGB"), image.convert("RGB"), 0.2)
    return Image.blend(grey, Image.new("RGB", image.size, "white"), 0.15)


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """The picture with its longer side resized to ``side`` pixels."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
