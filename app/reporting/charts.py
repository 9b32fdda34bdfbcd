"""The pictures of figures: as SVG for the report, whose ink is the page's own colour in light and dark."""

import re
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from app.explanation.fonts import font_families

INK = "#123456"
"""What is drawn in this colour takes the text colour of the page."""
BLUE, ORANGE, GREY = "#3b82c4", "#d9772b", "#8a8f98"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def svg(figure: Figure, name: str) -> str:
    """A figure as an element of a page, hidden from screen readers: its numbers stand in a table beside it.

    Args:
        name: of the figure, by which the names within it differ from those of other figures.
    """
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace("<svg ", '<svg aria-hidden="true" ', 1)
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def draw_inputs(scores: dict[str, dict]) -> str:
    """Accuracy by what the model was given, with intervals."""
    with mpl.rc_context(STYLE):
        figure, ax = blank(6.4, 0.42 * len(scores) + 0.7)
        values = [100 * s["accuracy"]["value"] for s in scores.values()]
        low = [100 * s["accuracy"]["low"] for s in scores.values()]
        high = [100 * s["accuracy"]["high"] for s in scores.values()]
        places = np.arange(len(scores))
        ax.barh(places, values, color=[BLUE, *[GREY] * (len(scores) - 1)], height=0.62)
        ax.hlines(places, low, high, color=INK, linewidth=1.6)
        ax.set_yticks(places, list(scores))
        ax.invert_yaxis()
        ax.set(xlim=(0, 100), xlabel="accuracy, %")
        return svg(figure, "inputs")


def draw_reliability(bins: dict[str, list[dict]]) -> str:
    """Accuracy by confidence, before and after calibration."""
    with mpl.rc_context(STYLE):
        figure, ax = blank(4.2, 3.6)
        ax.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=":")
        for way, color, label in (("before", GREY, "before calibration"), ("after", BLUE, "as given")):
            points = bins[way]
            sizes = np.array([b["rows"] for b in points])
            x, y = ([100 * b[name] for b in points] for name in ("confidence", "accuracy"))
            ax.plot(x, y, color=color, linewidth=1.2, label=label)
            ax.scatter(x, y, s=12 + 120 * sizes / sizes.sum(), color=color)
        ax.set(xlim=(0, 102), ylim=(0, 102), xlabel="probability of the answer, %", ylabel="right, %")
        ax.legend(loc="upper left")
        return svg(figure, "reliability")


def draw_risk(figures: dict) -> str:
    """Share of wrong answers by the share of rows that are answered; a point where the threshold is."""
    with mpl.rc_context(STYLE):
        figure, ax = blank(4.2, 3.6)
        curve = figures["curve"]
        ax.plot([100 * c for c in curve["coverage"]], [100 * r for r in curve["risk"]], color=BLUE)
        if figures["risk"] is not None:
            ax.plot(100 * figures["coverage"]["value"], 100 * figures["risk"]["value"], "o", color=ORANGE, label="sure")
            ax.legend(loc="upper left")
        ax.set(xlim=(0, 102), ylim=(0, None), xlabel="rows answered, surest first, %", ylabel="wrong among them, %")
        return svg(figure, "risk")


def draw_deletion(figures: dict) -> str:
    """The probability of the answer as the picture is hidden."""
    with mpl.rc_context(STYLE):
        figure, ax = blank(4.8, 3.6)
        for name, curve in figures["curves"].items():
            label = f"hidden by {name}" if name != "random" else "at random"
            ax.plot([100 * f for f in figures["fractions"]], [100 * p for p in curve], "o-", markersize=3, label=label)
        ax.set(xlabel="of the picture hidden, %", ylabel="probability of the answer, %", ylim=(0, 102))
        ax.legend()
        return svg(figure, "deletion")


def draw_confusion(figures: dict) -> str:
    """Answers by true label, each row as shares of its label; numbers where there is room."""
    matrix, names = np.array(figures["counts"]), figures["labels"]
    with mpl.rc_context(STYLE | {"font.family": font_families(*names, warn=False)}):
        side = max(3.2, 0.34 * len(names) + 1.6)
        figure, ax = blank(side, side)
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        ax.imshow(np.ma.masked_equal(shares, 0), cmap="Blues", vmin=0, vmax=1)
        for (row, column), number in np.ndenumerate(matrix):
            if number:
                color = "#ffffff" if shares[row, column] > 0.5 else "#202020"
                ax.text(column, row, f"{number}", ha="center", va="center", fontsize=7, color=color)
        short = [name if len(name) < 18 else name[:16] + "…" for name in names]
        ax.set_xticks(range(len(names)), short, rotation=90, fontsize=8)
        ax.set_yticks(range(len(names)), short, fontsize=8)
        ax.set(xlabel="answer", ylabel="label")
        return svg(figure, "confusion")
