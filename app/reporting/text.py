"""What a run says at its end: tables, curves and pictures."""

import textwrap
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

USED = {
    "validation": "These rows chose the epoch, the temperature and the threshold of the model: expect less on others.",
    "train": "The model learnt from these rows: they do not tell what it does on others.",
}
"""What it means where rows are not held out."""


def score_table(figures: dict, source: str) -> str:
    """Scores with intervals by system, then by slice, and what they mean, as text."""
    lines = [f"{source}: {figures['rows']:,} rows, {figures['images']:,} images", ""]
    if figures["role"] in USED:
        lines += [*textwrap.wrap(USED[figures["role"]], 110), ""]
    counted = {"multi": "whole sets", "annotators": "VQA accuracy"}.get(figures["label_type"], "accuracy")
    if figures["weighed_by"]:
        lines += [f"rows count what column {figures['weighed_by']} says", ""]
    lines.append(
        f"{'':18}{counted:>12}{'':20}{'macro F1':>8}{'':18}(95 % intervals, resampled by {figures['resampled_by']})"
    )
    for system, scores in figures["scores"].items():
        lines.append(f"{system:22}{format_interval(scores['accuracy'])}    {format_interval(scores.get('macro_f1'))}")
    for column, values in figures["slices"].items():
        lines += ["", f"accuracy by {column}"]
        lines += [f"  {value:20}{format_interval(v['accuracy'])}{v['rows']:>9,} rows" for value, v in values.items()]
    for told in (figures["inputs"]["verdict"], describe_calibration(figures["calibration"])):
        lines += ["", *textwrap.wrap(told, 110)]
    if deletion := figures.get("deletion"):
        lines += ["", f"deletion check, {deletion['rows']} rows: probability lost beyond hiding at random, in points"]
        lines += [f"  hidden by {heat:10}{format_interval(drop)}" for heat, drop in deletion["drop"].items()]
    if unknown := figures["unknown_labels"]:
        names = ", ".join(list(unknown)[:5]) + (", …" if len(unknown) > 5 else "")
        number = sum(unknown.values())
        meaning = "cannot be answered" if figures["label_type"] == "annotators" else "count as wrong"
        lines += ["", f"{number} labels of these rows were not known in training ({names}) and {meaning}"]
    for values in figures["saw"]["values"]:
        told = [values["description"], *(f"warning: {line}" for line in values["warnings"])]
        lines += ["", *(line for sentence in told for line in textwrap.wrap(sentence, 110))]
    if figures["ceiling"] < 1:
        lines += ["", f"no accuracy can exceed {figures['ceiling']:.1%} on these rows"]
    return "\n".join(lines)


def describe_calibration(figures: dict) -> str:
    """How far probabilities are off, and how many answers are sure."""
    ece = figures["ece"]
    line = f"probabilities are off by {ece['after']:.1%} on average ({ece['before']:.1%} before calibration); "
    if figures["threshold"] > 1:
        return line + "no answer is sure: no threshold kept the errors on the validation rows within what is allowed"
    if figures["risk"] is None:
        return line + f"sure, from {figures['threshold']:.0%} on, of none of the rows"
    sure, wrong = figures["coverage"]["value"], figures["risk"]["value"]
    return line + f"sure, from {figures['threshold']:.0%} on, of {sure:.1%} of the rows, {wrong:.1%} of these wrong"


def format_interval(interval: dict[str, float] | None) -> str:
    if interval is None:  # no row has a label that is known
        return f"{'–':>8}{'':20}"
    return f"{interval['value']:>8.1%}  [{interval['low']:>6.1%}, {interval['high']:>6.1%}]"


def draw_curves(records: list[dict], path: Path) -> None:
    """Loss and learning rate by step, validation accuracy by epoch."""
    steps = [r for r in records if "loss" in r]
    epochs = [r for r in records if "validation_accuracy" in r]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(1, 3)
    loss.plot([r["step"] for r in steps], [r["loss"] for r in steps], label="train")
    loss.plot([r["step"] for r in epochs], [r["validation_loss"] for r in epochs], "o-", label="validation")
    loss.set(title="loss", xlabel="step", yscale="log")
    loss.legend()
    accuracy.plot([r["epoch"] for r in epochs], [r["validation_accuracy"] for r in epochs], "o-")
    accuracy.set(title="validation accuracy", xlabel="epoch", ylim=(0, 1.02))
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    rate.plot([r["step"] for r in steps], [r["learning_rate"] for r in steps])
    rate.set(title="learning rate", xlabel="step")
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def how_right(earned: float, label: str) -> str:
    """What an answer is worth, and what would have been right."""
    if earned == 1:
        return "right"
    said = label or "none of the labels"
    return f"wrong, it is “{said}”" if earned == 0 else f"earns {earned:.0%}, it is “{said}”"
