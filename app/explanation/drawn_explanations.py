"""Figures of an explanation: one that a person reads at a glance, and one with all numbers."""

from __future__ import annotations

import textwrap

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from app.explanation.attribution import Explanation
from app.explanation.drawing import SPEAKS_AGAINST, SPEAKS_FOR, enlarged
from app.explanation.fonts import font_families
from data.errors import UserError

PANEL = 2.6
"""Width of a picture in inches."""
SIDE = 448
"""Longer side of a picture in pixels."""
NUM_WORDS = 12
"""Words in the figure of matrices."""


def explanation_figure(explanation: Explanation, title: str = "", columns: int = 3) -> Figure:
    """Picture, evidence for the answer, further pictures, and the words that did most; below them what was checked.

    The maps of the words have one scale. Without an image there are the words alone.

    Args:
        columns: width of the figure in pictures; more pictures make it wider.
    """
    shown = explanation.top_words
    names = [word_title(explanation, word) for word in shown]
    sentence, title = explanation.sentence, title or default_title(explanation)
    if explanation.image is None:
        return words_figure(explanation, title, columns)
    further = {name: value for name, value in explanation.contexts.items() if isinstance(value, Image.Image)}
    columns = max(2 + len(shown) + len(further), columns)
    lines = textwrap.wrap(sentence, 34 * columns)
    with drawing_context(title, sentence, *names):
        height = PANEL + 0.75 + 0.25 * (title.count("\n") + 1) + 0.22 * len(lines)
        figure = Figure(figsize=(PANEL * columns, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, columns, squeeze=False)[0]
        axes[0].imshow(enlarged(explanation.image, SIDE))
        axes[0].set_title("picture")
        axes[1].imshow(explanation.overlay(None, SIDE))
        axes[1].set_title(f"evidence for {shorten(explanation.answer)}", fontweight="bold")
        for ax, (name, picture) in zip(axes[2:], further.items(), strict=False):
            ax.imshow(enlarged(picture, SIDE))
            ax.set_title(name)
        for ax, word, name in zip(axes[2 + len(further) :], shown, names, strict=False):
            ax.imshow(explanation.overlay(word, SIDE))
            ax.set_title(name)
        for ax in axes:
            ax.set_axis_off()
        figure.suptitle(title, x=0.01, ha="left")
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=10)
        add_legend(figure)
    return figure


def words_figure(explanation: Explanation, title: str, columns: int = 3) -> Figure:
    """The effects of the words as bars, for a text without a picture."""
    order = sorted(np.argsort(-np.abs(explanation.effects))[:NUM_WORDS].tolist())
    words = [f"{explanation.words[word]} " for word in order]
    with drawing_context(title, *words):
        figure = Figure(figsize=(PANEL * columns, 1 + 0.3 * max(len(order), 1)), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        effects = 100 * explanation.effects[order]
        colors = [as_rgb(SPEAKS_FOR if effect > 0 else SPEAKS_AGAINST) for effect in effects]
        ax.barh(range(len(order)), effects, color=colors)
        ax.set_yticks(range(len(order)), words)
        ax.invert_yaxis()
        ax.set_xlabel(f"points of probability that “{shorten(explanation.answer)}” loses without the word")
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def matrices_figure(
    explanation: Explanation, title: str = "", head: int | None = None, level: int | None = None
) -> Figure:
    """All maps as matrices with colour bars: evidence, read-out positions, and attention to each word.

    Args:
        head: attention head, from 0; ``None`` for the mean of all heads.
        level: block of the image encoder; ``None`` for the last level with attention.

    Raises:
        UserError: no such head or level.
    """
    attention = select_attention(explanation, head, level)
    words = explanation.words[:NUM_WORDS]
    title = title or default_title(explanation)
    if len(explanation.words) > NUM_WORDS:
        title += f"\n(the first {NUM_WORDS} of {len(explanation.words)} words)"
    maps: list[tuple[str, np.ndarray, bool]] = [(f"evidence\n{explanation.method}", explanation.evidence, True)]
    if explanation.positions is not None:
        maps.append(("read-out\npositions", explanation.positions, False))
    maps += [(f"evidence\n{explanation.words[word]}", heat, True) for word, heat in explanation.word_evidence.items()]
    note = "mean of heads" if head is None else f"head {head}"
    if attention is not None:
        maps += [(f"attention, {note}\n{word}", heat, False) for word, heat in zip(words, attention, strict=False)]
    columns = min(len(maps), 6)
    rows = -(-len(maps) // columns)
    with drawing_context(title, *(name for name, _, _ in maps)):
        figure = Figure(figsize=(2.2 * columns, 2.1 * rows + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).flat
        for ax in axes:
            ax.set_axis_off()
        for ax, (name, values, is_signed) in zip(figure.axes, maps, strict=False):
            draw_matrix(ax, name, values, is_signed)
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def select_attention(explanation: Explanation, head: int | None, level: int | None) -> np.ndarray | None:
    """Attention to each word ``(W, h, w)`` of one head or the mean of all; ``None`` for a model without attention.

    Raises:
        UserError: no such head or level.
    """
    found = explanation.attention
    if not found and head is None and level is None:
        return None
    level = max(found, default=None) if level is None else level
    if level is None or level not in found:
        there = f"levels {', '.join(map(str, found))}" if found else "no level"
        raise UserError(f"This model has attention at {there}; there is none at {level or 'any'}.")
    if head is not None and not 0 <= head < len(found[level]):
        raise UserError(f"This model has heads 0 to {len(found[level]) - 1}; there is no head {head}.")
    return found[level].mean(axis=0) if head is None else found[level][head]


def draw_matrix(ax: Axes, title: str, values: np.ndarray, is_signed: bool) -> None:
    """A matrix with its colour bar; white is zero for signed values."""
    most = np.abs(values).max(initial=0) or 1
    options = {"cmap": "PuOr_r", "vmin": -most, "vmax": most} if is_signed else {"cmap": "viridis", "vmin": 0}
    ax.figure.colorbar(ax.imshow(values, **options), ax=ax, shrink=0.7, format="%.2g")
    ax.set_title(title, fontsize=9)


def add_legend(figure: Figure) -> None:
    """What the two colours mean."""
    entries = {"for the answer": SPEAKS_FOR, "against it": SPEAKS_AGAINST}
    handles = [Patch(color=as_rgb(color), label=label) for label, color in entries.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize=9)


def drawing_context(*texts: str):
    """Matplotlib settings with the fonts that the texts need."""
    return mpl.rc_context({"text.parse_math": False, "font.family": font_families(*texts)})


def default_title(explanation: Explanation) -> str:
    """Text, further contexts in words, answer and probability."""
    asked = [shorten(explanation.text, 160)] if explanation.text else []
    asked += [f"{name}: {shorten(v, 160)}" for name, v in explanation.contexts.items() if isinstance(v, str)]
    asked = asked or ([] if explanation.contexts else ["no text"])
    return "\n".join(asked) + f"\n→ {shorten(explanation.answer, 60)} ({explanation.probability:.0%})"


def word_title(explanation: Explanation, word: int) -> str:
    """A word and its effect."""
    return f"{shorten(explanation.words[word])}  {100 * explanation.effects[word]:+.0f} points"


def shorten(text: str, length: int = 24) -> str:
    """At most ``length`` characters of a text, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def as_rgb(color: tuple[int, int, int]) -> tuple[float, float, float]:
    """A colour for matplotlib."""
    red, green, blue = (channel / 255 for channel in color)
    return red, green, blue
