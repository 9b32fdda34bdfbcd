"""Drawing: heat-maps over a picture."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from PIL import Image


def draw_matrix(ax: Axes, values: np.ndarray, **options) -> None:
    """A matrix with its colour bar."""
    ax.figure.colorbar(ax.imshow(values, **options), ax=ax, shrink=0.7, format="%.2g")


def lay_over(image: Image.Image, heat: np.ndarray, most: float, opacity: float = 0.55) -> Image.Image:
    """Heat ``(h, w)`` over a picture, from 0 or less (dark) to ``most`` (bright)."""
    heat = np.clip(heat / most, 0, 1) if most > 0 else np.zeros_like(heat)
    smooth = Image.fromarray((heat * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    colored = Image.fromarray((colormaps["inferno"](np.asarray(smooth))[..., :3] * 255).astype(np.uint8))
    return Image.blend(image, colored, opacity)
