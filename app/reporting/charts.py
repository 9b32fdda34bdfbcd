"""Charts: of an evaluation as SVG for the report, in the text colour of the page; of a training as PNG."""

import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from app.evaluation.calibration_figures import Calibration, ReliabilityBins
from app.evaluation.figures import Confusion
from app.evaluation.interval import Scores
from app.explanation.fonts import font_families

INK = "#123456"
"""Placeholder that `svg` replaces by the text colour of the page."""
BLUE, ORANGE, GREY = "#3b82c4", "#d9772b", "#8a8f98"
MAX_LEGEND = 12
"""Largest number of lines that a legend names."""
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
    """A figure as an SVG element. It is hidden from screen readers, because a table beside it has its numbers.

    Args:
        name: prefix of the ids in the element, unique on the page.
    """
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace("<svg ", '<svg aria-hidden="true" ', 1)
    return re.sub(r"<[^!>][^>]*>", lambda tag: own_attributes(tag[0], name), text)  # not texts, which may be labels


def own_attributes(tag: str, name: str) -> str:
    """A tag in the text colour of the page, with ids that begin with a name."""
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", tag.replace(INK, "currentColor"))


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def draw_inputs(scores: dict[str, Scores], metric: str, name: str) -> str:
    """A metric by what the model was given, with intervals; ``name`` is that of the metric in words."""
    with mpl.rc_context(STYLE):
        figure, ax = blank(6.4, 0.42 * len(scores) + 0.7)
        found = [metrics[metric] for metrics in scores.values()]
        values, low, high = ([100 * getattr(interval, end) for interval in found] for end in ("value", "low", "high"))
        places = np.arange(len(scores))
        ax.barh(places, values, color=[BLUE, *[GREY] * (len(scores) - 1)], height=0.62)
        ax.hlines(places, low, high, color=INK, linewidth=1.6)
        ax.set_yticks(places, list(scores))
        ax.invert_yaxis()
        ax.set(xlim=(0, 100), xlabel=f"{name}, %")
        return svg(figure, "inputs")


def draw_reliability(bins: ReliabilityBins) -> str:
    """Accuracy by confidence, before and after calibration."""
    with mpl.rc_context(STYLE):
        figure, ax = blank(4.2, 3.6)
        ax.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=":")
        curves = ((bins.before, GREY, "before calibration"), (bins.after, BLUE, "after calibration"))
        for points, color, label in curves:
            sizes = np.array([b.rows for b in points])
            x, y = [100 * b.confidence for b in points], [100 * b.accuracy for b in points]
            ax.plot(x, y, color=color, linewidth=1.2, label=label)
            ax.scatter(x, y, s=12 + 120 * sizes / sizes.sum(), color=color)
        ax.set(xlim=(0, 102), ylim=(0, 102), xlabel="probability of the answer, %", ylabel="correct, %")
        ax.legend(loc="upper left")
        return svg(figure, "reliability")


def draw_risk(figures: Calibration) -> str:
    """Share of wrong answers by share of rows answered, with a point at the model's threshold."""
    with mpl.rc_context(STYLE):
        figure, ax = blank(4.2, 3.6)
        curve, risk = figures.curve, figures.risk
        ax.plot([100 * c for c in curve.coverage], [100 * r for r in curve.risk], color=BLUE)
        if risk is not None:
            ax.plot(100 * figures.coverage.value, 100 * risk.value, "o", color=ORANGE, label="sure answers")
            ax.legend(loc="upper left")
        ax.set(
            xlim=(0, 102), ylim=(0, None), xlabel="rows answered, most confident first, %", ylabel="wrong answers, %"
        )
        return svg(figure, "risk")


def draw_deletion(fractions: list[float], curves: dict[str, list[float]], what: str) -> str:
    """Probability of the answer by the share of the picture that is hidden or revealed.

    Args:
        curves: order of the places → probability at each of ``fractions``.
        what: "hidden" or "revealed".
    """
    with mpl.rc_context(STYLE):
        figure, ax = blank(4.2, 3.6)
        for (name, curve), color in zip(curves.items(), (BLUE, GREY), strict=True):
            label = "at random" if name == "random" else "most evidence first"
            ax.plot(
                [100 * f for f in fractions], [100 * p for p in curve], "o-", color=color, markersize=4, label=label
            )
        ax.set(xlabel=f"picture {what}, %", ylabel="probability of the answer, %", ylim=(0, 102))
        ax.legend()
        return svg(figure, what)


def draw_confusion(confusion: Confusion) -> str:
    """Confusion matrix; the colour is the share of the label's rows, the number their count."""
    matrix, names = np.array(confusion.counts), confusion.labels
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


def draw_shots(curves: dict[str, dict[int, list[float]]], path: Path) -> None:
    """Held-out accuracy by number of training rows of each class, with its standard deviation, as a PNG file.

    Args:
        curves: name of a curve → number of rows → accuracies with different seeds.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    numbers = sorted({number for curve in curves.values() for number in curve})
    for name, curve in curves.items():
        x = sorted(curve)
        means = [100 * float(np.mean(curve[number])) for number in x]
        spread = [100 * float(np.std(curve[number], ddof=1)) if len(curve[number]) > 1 else 0 for number in x]
        axes.errorbar(x, means, yerr=spread, marker="o", capsize=3, label=f" {name}")  # as in `draw_curves`
    axes.set(xscale="log", ylim=(0, 101), xlabel="training rows of each class", ylabel="held-out accuracy, %")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    name_lines(axes, list(curves))
    figure.savefig(path, dpi=110)


def draw_search(trials: Sequence[tuple[int, float, bool]], metric: str, is_lower_better: bool, path: Path) -> None:
    """The figures of the trials of a search and the best so far, as a PNG file.

    Args:
        trials: number, figure and whether it finished, of each trial.
        metric: name of the figure.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    finished = [(number, value) for number, value, is_finished in sorted(trials) if is_finished]
    pruned = [(number, value) for number, value, is_finished in sorted(trials) if not is_finished]
    if pruned:
        axes.scatter(*zip(*pruned, strict=True), color=GREY, marker="x", label="ended early")
    if finished:
        numbers, values = zip(*finished, strict=True)
        best = np.minimum.accumulate(values) if is_lower_better else np.maximum.accumulate(values)
        axes.step(numbers, best, where="post", color=ORANGE, label="best so far")
        axes.scatter(numbers, values, color=BLUE, label="finished")
    axes.set(xlabel="trial", ylabel=f"{metric}, validation rows")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if trials:
        axes.legend()
    figure.savefig(path, dpi=110, format="png")


def draw_curves(records: list[dict], path: Path) -> None:
    """Loss and learning rate by step, validation accuracy by epoch, from the records of a training, as a PNG file.

    Slices of the validation rows, if there are any, have thin lines of their own.
    """
    steps = [r for r in records if "loss" in r]
    epochs = [r for r in records if "validation_accuracy" in r]
    slices = [name for name in (epochs or [{}])[-1] if name.startswith("validation_accuracy/")]
    names = [name.split("/", 2)[2] for name in slices]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(1, 3)
    loss.plot([r["step"] for r in steps], [r["loss"] for r in steps], label="train")
    loss.plot([r["step"] for r in epochs], [r["validation_loss"] for r in epochs], "o-", label="validation")
    loss.set(title="loss", xlabel="step", yscale="log")
    loss.legend()
    for name, column in zip(names, slices, strict=True):
        own = [(r["epoch"], r[column]) for r in epochs if column in r]
        label = f" {name}"  # matplotlib hides names that begin with _
        accuracy.plot(*zip(*own, strict=True), linewidth=1, label=label)
    accuracy.plot([r["epoch"] for r in epochs], [r["validation_accuracy"] for r in epochs], "o-", color="black")
    if 0 < len(slices) <= MAX_LEGEND:
        name_lines(accuracy, names, fontsize="x-small")
    accuracy.set(title="validation accuracy", xlabel="epoch", ylim=(0, 1.02))
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    rate.plot([r["step"] for r in steps], [r["learning_rate"] for r in steps])
    rate.set(title="learning rate", xlabel="step")
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def name_lines(axes: Axes, names: Sequence[str], **options) -> None:
    """Draw a legend with names of users, which are no mathematics and may be of any script."""
    for text in axes.legend(**options).get_texts():
        text.set(parse_math=False, fontfamily=font_families(*names, warn=False))
