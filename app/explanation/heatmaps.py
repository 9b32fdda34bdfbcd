"""Drawing of heat-maps: over an image, and as a figure with all numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from app.explanation.fonts import font_families

if TYPE_CHECKING:
    from app.explanation.attribution import Explanation


def overlay_heatmap(image: Image.Image, heat: np.ndarray, most: float, opacity: float = 0.55) -> Image.Image:
    """Heat ``(h, w)`` over an image, from dark (0 or less) to bright (``most``)."""
    heat = np.clip(heat / most, 0, 1) if most > 0 else np.zeros_like(heat)
    smooth = Image.fromarray((heat * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    colored = Image.fromarray((colormaps["inferno"](np.asarray(smooth))[..., :3] * 255).astype(np.uint8))
    return Image.blend(image, colored, opacity)


def explanation_figure(
    explanation: Explanation, attention: np.ndarray | None, title: str, attention_note: str, max_words: int
) -> Figure:
    """The image, and a column for the answer and for each word: overlay, effects, attention.

    Overlays of words share one scale. Each matrix has its own scale, shown by its colour bar.

    Args:
        attention: ``(W, h, w)``; ``None`` leaves its row out.
        attention_note: which attention it is.
        max_words: number of words that are drawn. If there are more, the title says so.
    """
    words = explanation.words[:max_words]
    if len(explanation.words) > max_words:
        title += f"\n(the first {max_words} of {len(explanation.words)} words)"
    with mpl.rc_context({"text.parse_math": False, "font.family": font_families(title, *words)}):
        heats = [explanation.answer_weights, *explanation.effects[: len(words)]]
        rows = 2 if attention is None else 3
        figure = Figure(figsize=(1.6 * (len(words) + 2), 1.5 * rows + 0.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, len(words) + 2, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        axes[0, 0].imshow(explanation.image)
        axes[0, 0].set_title("image")
        notes = ["share of the answer;\neffect of each word", f"attention to\neach word,\n{attention_note}"]
        for ax, note in zip(axes[1:, 0], notes, strict=False):
            ax.text(0.5, 0.5, note, ha="center", va="center", fontsize=8, transform=ax.transAxes)
        answer = overlay_heatmap(explanation.image, explanation.answer_weights, explanation.answer_weights.max())
        for ax, name, overlay in zip(axes[0, 1:], ["answer", *words], [answer, *explanation.overlays()], strict=False):
            ax.imshow(overlay)
            ax.set_title(name)
        for column, heat in enumerate(heats, start=1):
            most = np.abs(heat).max() or 1
            signed = {"cmap": "RdBu_r", "vmin": -most, "vmax": most}  # white is no effect
            draw_matrix(axes[1, column], heat, **(signed if column > 1 else {"cmap": "inferno"}))
            if attention is not None and column > 1:
                draw_matrix(axes[2, column], attention[column - 2], cmap="inferno")
        figure.suptitle(title, x=0.02, ha="left")
    return figure


def draw_matrix(ax: Axes, values: np.ndarray, **options) -> None:
    """A matrix with its colour bar."""
    ax.figure.colorbar(ax.imshow(values, **options), ax=ax, shrink=0.7, format="%.2g")
