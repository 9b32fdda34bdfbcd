"""The figures of an evaluation as plain text."""

import textwrap

from app.evaluation.baselines import FROZEN_FEATURES, LINEAR, LINEAR_ALL, LINEAR_BOTH, LINEAR_IMAGE, LINEAR_TEXT
from app.evaluation.calibration_figures import Calibration
from app.evaluation.compare import Comparison
from app.evaluation.figures import CaseFigures, Evaluation
from app.evaluation.interval import Interval

ROLE_WARNINGS = {
    "validation": "Training used these rows to choose the epoch, the temperature and the threshold. "
    "Expect lower figures on other rows.",
    "train": "The model was trained on these rows. The figures do not tell how good it is on other rows.",
}
"""Role of the rows → what it means for their figures, for rows that are not held out."""
BRIEF = ("accuracy", "macro_f1")
"""Metrics of every table."""
WIDTH = 110
"""Characters of a line."""


def score_table(figures: Evaluation, source: str) -> str:
    """Scores with intervals by what the model was given, then by slice, and what they mean."""
    lines = [f"{source}: {figures.rows:,} rows, {figures.images:,} images", ""]
    if warning := role_text(figures):
        lines += [*textwrap.wrap(warning, WIDTH), ""]
    if figures.weighed_by:
        lines += [f"rows are weighted by column {figures.weighed_by}", ""]
    first = "accuracy" if figures.inputs.metric in BRIEF else figures.inputs.metric
    accuracy = metric_name(first, figures.label_type)
    resampled = f"(95 % intervals, resampled by {figures.resampled_by})"
    lines.append(f"{'':13}{accuracy:>17}{'':20}{'macro F1':>8}{'':18}{resampled}")
    for system, scores in figures.scores.items():
        lines.append(f"{system:22}{format_interval(scores.get(first))}    {format_interval(scores.get('macro_f1'))}")
    for column, slices in figures.slices.items():
        lines += ["", f"accuracy by {column}"]
        lines += [
            f"  {value:20}{format_interval(part.scores['accuracy'])}{part.rows:>9,} rows"
            for value, part in slices.items()
        ]
    if cases := figures.by_case:
        lines += ["", f"by {cases.column}: {cases.cases:,} answers, each the mean of the probabilities of its rows"]
        for system, scores in cases.scores.items():
            line = f"  {system:20}{format_interval(scores.get(first))}    {format_interval(scores.get('macro_f1'))}"
            lines.append(line)
    texts = [input_use_text(figures), advantage_text(figures)]
    if cases and cases.advantage:
        texts.append(f"By {cases.column}: {advantage_text(figures, cases)}")
    texts += [calibration_text(figures.calibration), trust_text(figures)]
    for sentences in texts:
        if sentences:
            lines += ["", *textwrap.wrap(sentences, WIDTH)]
    return "\n".join([*lines, *row_notes(figures)])


def role_text(figures: Evaluation) -> str:
    """What the rows were used for in training, in sentences; empty for rows whose images are all new to the model."""
    sentences = [ROLE_WARNINGS[figures.role]] if figures.role in ROLE_WARNINGS else []
    if figures.seen_images:
        sentences.append(
            f"{figures.seen_images:,} of the {figures.images:,} images of these rows also occur in the training rows: "
            "expect lower figures on rows with other images."
        )
    return " ".join(sentences)


def metric_name(metric: str, label_type: str) -> str:
    """A metric in words."""
    if metric == "accuracy":
        return {"multi": "whole sets", "annotators": "VQA accuracy"}.get(label_type, "accuracy")
    return {"roc_auc": "ROC AUC", "macro_f1": "macro F1"}.get(metric, metric.replace("_", " "))


def row_notes(figures: Evaluation) -> list[str]:
    """Lines about unknown labels, images of more than 8 bits and the highest possible accuracy."""
    lines = []
    if unknown := figures.unknown_labels:
        names = ", ".join(list(unknown)[:5]) + (", …" if len(unknown) > 5 else "")
        number = sum(unknown.values())
        meaning = "cannot be answered" if figures.label_type == "annotators" else "count as wrong"
        lines += ["", f"{number} labels of these rows are unknown to the model ({names}) and {meaning}"]
    for values in figures.saw.values:
        for sentence in (values.describe(), *(f"warning: {line}" for line in values.warnings())):
            lines += ["", *textwrap.wrap(sentence, WIDTH)]
    if figures.ceiling < 1:
        lines += ["", f"no accuracy can exceed {figures.ceiling:.1%} on these rows"]
    return lines


def input_use_text(figures: Evaluation) -> str:
    """Whether the model uses image and text, in sentences."""
    lost, kept = figures.inputs.lost, figures.inputs.kept
    sentences, metric = [], metric_name(figures.inputs.metric, "single")
    for name, (without, shuffled) in figures.inputs.parts.items():
        loss = (
            f"{metric} loses {points_with_interval(lost[without])} without it and "
            f"{points_with_interval(lost[shuffled])} with that of another row"
        )
        if lost[without].low > 0 and lost[shuffled].low > 0:
            sentences.append(f"The model uses the {name}: {loss}.")
        elif lost[shuffled].low > 0:
            sentences.append(
                f"The model reads the {name}, but these rows do not show that it gains by it: {loss}. A model of the "
                "other input alone may be as good."
            )
        else:
            sentences.append(f"These rows do not show that the model uses the {name}: {loss}.")
        if kept[shuffled]:
            sentences.append(
                f"Shuffling did not change the {name} of {kept[shuffled]:,} of {figures.rows:,} rows, because it is "
                "missing or equal."
            )
    return " ".join(sentences)


def advantage_text(figures: Evaluation, cases: CaseFigures | None = None) -> str:
    """Whether the model is better than the best linear classifier, in sentences; empty without one.

    Args:
        cases: figures of the cases, in place of those of the rows.
    """
    of = figures if cases is None else cases
    found = of.advantage
    if found is None or not found.gained:
        return ""
    best = min(found.gained, key=lambda name: found.gained[name].value)
    gain, score = found.gained[best], of.scores[best][found.metric].value
    sees = {
        LINEAR_TEXT: "the words of the text",
        LINEAR_IMAGE: f"the image ({found.images})",
        LINEAR_BOTH: f"the words and the image ({found.images})",
        LINEAR_ALL: f"all inputs (pictures as {found.images})",
    }
    linear = f"logistic regression on {sees.get(best, f'the context {best.removeprefix(LINEAR)}')}"
    metric = metric_name(found.metric, figures.label_type)
    figure = f"its {metric} is {score:.1%}, the model's differs by {points_with_interval(gain)}"
    fewer = "" if found.images == FROZEN_FEATURES else "fewer trained weights (--recipe probe), "
    to_try = (
        f"Try {fewer}more steps (--train.steps), or more rows; if nothing helps, the linear classifier is the better "
        "choice."
    )
    if gain.low > 0:
        return f"The model is better than the best linear classifier, {linear}: {figure}."
    if gain.high < 0:
        return f"The model is worse than {linear}: {figure}. {to_try}"
    advice = "More held-out rows may show it." if gain.value > 0 else to_try
    return f"These rows do not show that the model is better than {linear}: {figure}. {advice}"


def trust_text(figures: Evaluation) -> str:
    """How far the maps of evidence can be trusted on these rows, in one sentence; empty without a check."""
    check = figures.deletion
    if check is None:
        return ""
    if figures.inputs.lost[figures.inputs.parts["image"][1]].low <= 0:
        return "These rows do not show that the model uses the image, so the maps cannot show what its answers rest on."
    beyond, rows = check.beyond_random, f"{check.rows:,} row{'s' if check.rows != 1 else ''}"
    low, high = (f"{100 * end:.0f}" for end in (beyond.low, beyond.high))
    loss = (
        f"Hiding the {check.share:.0%} of the picture with most evidence lowers the probability by "
        f"{100 * beyond.value:.0f} points more [{low}, {high}] than hiding as much at random ({rows})"
    )
    if beyond.low > 0:
        return f"{loss}: the maps show what these answers rest on."
    if (beyond.low, beyond.high) == (-1, 1):
        return f"{loss}: the rows are too few to say whether the maps can be trusted."
    return f"{loss}: the maps cannot be trusted on these rows."


def calibration_text(figures: Calibration) -> str:
    """Calibration error and sure answers, in sentences."""
    error = (
        f"The mean calibration error of the probabilities is {figures.ece.after:.1%} ({figures.ece.before:.1%} before "
        "calibration). "
    )
    if figures.threshold > 1:
        return error + "No answer is sure: on the validation rows no threshold kept the errors within the allowed risk."
    threshold = percent(figures.threshold, 0)
    if figures.risk is None:
        return error + f"No answer of these rows is sure: all are below the threshold of {threshold}."
    return error + (
        f"From a threshold of {threshold} it answers {figures.coverage.value:.1%} of the rows; "
        f"{figures.risk.value:.1%} of those answers are wrong."
    )


def percent(value: float, digits: int = 1) -> str:
    """A share in percent, with more digits where it takes them to tell a share below 1 from 100 %."""
    text = f"{value:.{digits}%}"
    return percent(value, digits + 1) if value < 1 and text.startswith("100") else text


def points_with_interval(value: Interval) -> str:
    """A difference in percentage points."""
    return f"{100 * value.value:.1f} points [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def format_interval(interval: Interval | None) -> str:
    """A cell of the table; a dash for a metric that the rows do not define."""
    if interval is None:
        return f"{'–':>8}{'':20}"
    return f"{interval.value:>8.1%}  [{interval.low:>6.1%}, {interval.high:>6.1%}]"


def correctness_text(correctness: float, label: str) -> str:
    """Whether an answer is correct, and the label if it is not."""
    if correctness == 1:
        return "correct"
    label = label or "none of the labels"
    return f"wrong, the label is “{label}”" if correctness == 0 else f"scores {correctness:.0%}, the label is “{label}”"


def comparison_text(found: Comparison, names: tuple[str, str]) -> str:
    """The comparison as printed text."""
    one, two = found.accuracy
    value, low, high = (100 * end for end in (found.difference.value, found.difference.low, found.difference.high))
    meaning, of = "these rows do not show which one is better", ""
    if found.label_type == "multi":
        meaning, of = "whole sets are seldom exactly right and do not show which one is better", " of whole sets"
    elif found.p < 0.05:
        meaning = f"{names[value > 0]} is better on rows like these"
    return (
        f"{found.rows:,} rows, {found.images:,} images, {found.groups:,} independent groups\n\n"
        f"{one:>8.1%}  {names[0]}\n{two:>8.1%}  {names[1]}\n\n"
        f"difference{of} {value:+.1f} points [{low:+.1f}, {high:+.1f}], p = {found.p:.4f}: {meaning}\n"
        f"rows answered better by {names[0]}: {found.better_first:,}, by {names[1]}: {found.better_second:,}"
    )
