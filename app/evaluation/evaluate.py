"""All figures of a model on held-out rows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from app.evaluation.baselines import Linear, constant_baseline
from app.evaluation.bootstrap import Resampler, difference_interval, mean_interval
from app.evaluation.calibration import calibration_figures
from app.evaluation.cases import first_rows, pool_linear, pool_predictions
from app.evaluation.figures import (
    Advantage,
    CaseFigures,
    ClassFigures,
    Confusion,
    Evaluation,
    InputUse,
    Role,
    SliceFigures,
)
from app.evaluation.input_coverage import input_coverage
from app.evaluation.interval import Scores
from app.evaluation.metric_draws import Draws
from app.evaluation.metrics import (
    METRICS,
    class_table,
    compute_metrics,
    default_metric,
    num_different_groups,
    num_effective_groups,
)
from app.evaluation.predict import IMAGE_AND_TEXT, Parts, Predictions, parts_of
from app.evaluation.slices import slice_rows
from app.evaluation.targets import Targets
from data import DataSettings, LabelFormat, Rows
from data.groups import case_numbers, describe_groups, row_groups
from models import ImageTextConfig, ImageTextProcessor

MAJORITY = "majority answer"
"""Name of the baseline that always gives the most frequent answer of the training rows."""
BRIEF = ("accuracy", "macro_f1")
"""Metrics of baselines and slices."""
MAX_CONFUSED = 30
"""Number of labels in the confusion matrix, the most frequent ones."""

WHOLE = "whole"
"""Key of the model with all inputs among draws."""


def evaluate(
    predictions: Predictions,
    rows: Rows,
    processor: ImageTextProcessor,
    config: ImageTextConfig,
    settings: DataSettings,
    role: Role = "test",
    linear: Linear | None = None,
) -> Evaluation:
    """Figures with 95 % intervals by what the model was given, for the baselines, and by slices of the rows.

    Args:
        predictions: for `modalities_of` the model.
        settings: ``slice_by``, ``group``, ``pool`` and ``weight`` name columns of the rows.
        role: use of the rows in training.
        linear: answers of linear classifiers to compare with.
    """
    original, predictions = predictions, predictions.centered()
    targets, form = predictions.targets, LabelFormat.of(config)
    groups, resampled_by = groups_of(rows, settings)
    resampler = Resampler(groups)
    probabilities = predictions.whole
    scores, inputs, gained = compare_systems(predictions, linear, config, resampler)
    return Evaluation(
        source=rows.source,
        role=role,
        weighed_by=settings.weight if rows.table_weights is not None else None,
        rows=len(rows),
        images=len(set(rows.image_keys) - {None}),
        resampled_by=resampled_by,
        label_type=form.type,
        ceiling=targets.mean(targets.best_correctness()),
        unknown_labels={
            name: number for name, number in form.count(rows.labels).most_common() if name not in config.label2id
        },
        scores=scores,
        inputs=inputs,
        advantage=gained,
        classes=named_classes(class_table(probabilities, targets.classes(), resampler, targets.weights), config),
        confusion=confusion_matrix(probabilities, targets, list(config.id2label.values())),
        slices={
            column: {
                value: slice_figures(probabilities, targets, resampler, chosen)
                for value, chosen in slice_rows(rows, column, processor).items()
            }
            for column in settings.slice_by
        },
        calibration=calibration_figures(
            original.whole,
            targets,
            resampler,
            config.temperature,
            config.threshold,
            config.label_thresholds,
        ),
        saw=input_coverage(processor, rows),
        by_case=case_figures(original, rows, config, settings, linear) if settings.pool else None,
    )


def named_classes(table: Sequence[ClassFigures], config: ImageTextConfig) -> dict[str, ClassFigures]:
    """The figures of the classes that rows have, by name, with the thresholds of several labels."""
    cuts: Sequence[float | None] = config.label_thresholds or [None] * config.num_labels
    return {
        config.id2label[c]: replace(figures, threshold=cut)
        for c, (figures, cut) in enumerate(zip(table, cuts, strict=True))
        if figures.rows
    }


def compare_systems(
    predictions: Predictions, linear: Linear | None, config: ImageTextConfig, resampler: Resampler
) -> tuple[dict[str, Scores], InputUse, Advantage | None]:
    """All scores of the model, the main ones of its inputs alone and of the baselines, and how much it is better.

    Args:
        predictions: centered.
    """
    targets, metric = predictions.targets, judging_metric(config)
    majority = constant_baseline(config.majority_answer, len(targets), config.num_labels)
    systems = predictions.probabilities | (linear.centered() if linear else {}) | {MAJORITY: majority}
    names = tuple(dict.fromkeys((*BRIEF, metric)))
    scores = {
        system: scores_of(p, targets, resampler, None if system == predictions.whole_name else names)
        for system, p in systems.items()
    }
    gained = None if linear is None else advantage(predictions, linear, resampler, metric)
    return scores, input_use(predictions, resampler, metric, parts_of(config)), gained


def case_figures(
    predictions: Predictions, rows: Rows, config: ImageTextConfig, settings: DataSettings, linear: Linear | None
) -> CaseFigures:
    """Figures of the cases that ``settings.pool`` names."""
    assert settings.pool
    cases = case_numbers(rows, settings.pool, LabelFormat.of(config))
    pooled = pool_predictions(predictions, cases).centered()
    pooled_linear = None if linear is None else pool_linear(linear, cases, predictions.targets.weights)
    resampler = Resampler(groups_of(rows, settings)[0][first_rows(cases)])
    return CaseFigures(settings.pool, len(pooled.targets), *compare_systems(pooled, pooled_linear, config, resampler))


def groups_of(rows: Rows, settings: DataSettings) -> tuple[np.ndarray, str]:
    """Group of each row ``(n,)`` for the bootstrap, and the name of what the groups share.

    The rows of a case (``settings.pool``) share one answer, so they are in one group.
    """
    group, absent = settings.group, ""
    if group and group not in rows.table.column_names:
        group, absent = None, f" (these rows have no column {group})"
    pool = settings.pool if settings.pool and settings.pool in rows.table.column_names else None
    return row_groups(rows, group, pool), describe_groups(group, pool) + absent


def confusion_matrix(probabilities: np.ndarray, targets: Targets, names: list[str]) -> Confusion | None:
    """Answers by label; ``None`` for ``multi``, where an answer is a set of classes."""
    if targets.label_type == "multi":
        return None
    labels, answers = targets.classes(), probabilities.argmax(axis=1)
    frequency = np.bincount(labels[labels >= 0], minlength=len(names))
    shown = np.sort(np.argsort(-frequency, kind="stable")[:MAX_CONFUSED])
    shown = shown[frequency[shown] > 0]
    place = np.full(len(names) + 1, len(shown))
    place[shown] = np.arange(len(shown))
    counts = np.zeros((len(shown) + 1, len(shown) + 1), dtype=int)
    np.add.at(counts, (place[np.where(labels < 0, len(names), labels)], place[answers]), 1)
    return Confusion([*(names[c] for c in shown), "others"], counts.tolist())


def slice_figures(
    probabilities: np.ndarray, targets: Targets, resampler: Resampler, chosen: np.ndarray
) -> SliceFigures:
    """Number and scores of the rows of a mask."""
    scores = scores_of(probabilities[chosen], targets.select(chosen), resampler.select(chosen), BRIEF)
    return SliceFigures(int(chosen.sum()), scores)


def scores_of(probabilities: np.ndarray, targets: Targets, resampler: Resampler, names: Sequence[str] | None) -> Scores:
    """Metrics with intervals.

    For ``annotators`` the accuracy is the VQA accuracy, and the other metrics compare with the most frequent answer.
    The accuracy of weighted rows has the interval of a mean, which allows for the small number of heavy rows.
    """
    scores = compute_metrics(probabilities, targets.classes(), resampler, names, targets.weights)
    if targets.label_type == "annotators" or targets.weights is not None:
        scores["accuracy"] = mean_interval(targets.correctness(probabilities), resampler, weights=targets.weights)
    return scores


def judging_metric(config: ImageTextConfig) -> str:
    """The metric that the best epoch was chosen by; for the loss, and for models of earlier versions, the default."""
    return default_metric(config.label_type) if config.best_by in ("", "loss") else config.best_by


def input_use(
    predictions: Predictions, resampler: Resampler, metric: str = "accuracy", parts: Parts = IMAGE_AND_TEXT
) -> InputUse:
    """What a metric loses without each input, or with that of another row, on the same rows.

    If the rows do not define the metric, it is the accuracy.
    """
    metric = defined_or_accuracy(predictions, metric)
    others = {name: found for name, found in predictions.probabilities.items() if name != predictions.whole_name}
    lost = differences(predictions, others, resampler, metric)
    return InputUse(lost, {modality: predictions.kept.get(modality, 0) for modality in lost}, metric, parts)


def advantage(predictions: Predictions, linear: Linear, resampler: Resampler, metric: str) -> Advantage:
    """What a metric gains over linear classifiers on the same rows; if these do not define it, the accuracy."""
    metric = defined_or_accuracy(predictions, metric)
    return Advantage(differences(predictions, linear.centered(), resampler, metric), linear.images, metric)


def defined_or_accuracy(predictions: Predictions, metric: str) -> str:
    """The metric if the rows define it, otherwise the accuracy."""
    is_defined = metric == "accuracy" or not np.isnan(metric_of(predictions.whole, predictions, metric))
    return metric if is_defined else "accuracy"


def differences(predictions: Predictions, others: dict[str, np.ndarray], resampler: Resampler, metric: str) -> Scores:
    """A metric of the model with both inputs minus that of others, with intervals over paired bootstrap draws.

    Args:
        others: name → probabilities ``(n, C)`` for the same rows.
    """
    targets, whole = predictions.targets, predictions.whole
    if metric == "accuracy":
        correct = {name: targets.correctness(p) for name, p in others.items()}
        gains = {name: targets.correctness(whole) - found for name, found in correct.items()}
        return {name: mean_interval(g, resampler, least=-1, weights=targets.weights) for name, g in gains.items()}
    draws = {
        name: Draws(p, targets.classes(), resampler, targets.weights) for name, p in (others | {WHOLE: whole}).items()
    }
    drawn = {name: found.metric(metric) for name, found in draws.items()}
    value, groups = metric_of(whole, predictions, metric), num_effective_groups(draws[WHOLE], resampler)
    return {
        name: difference_interval(
            value - metric_of(p, predictions, metric),
            drawn[WHOLE] - drawn[name],
            groups,
            num_different_groups(draws[WHOLE], draws[name], metric),
        )
        for name, p in others.items()
    }


def metric_of(probabilities: np.ndarray, predictions: Predictions, metric: str) -> float:
    targets = predictions.targets
    return float(METRICS[metric](targets.classes(), probabilities, targets.weights))
