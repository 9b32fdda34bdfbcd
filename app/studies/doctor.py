"""Run the checks of the data before a training, those of `app.studies.data_checks` and those that fit a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from app.evaluation.baselines import LINEAR, LINEAR_ALL, LINEAR_BOTH, LINEAR_IMAGE, LINEAR_TEXT, constant_baseline
from app.evaluation.targets import Targets
from app.precision import choose_precision
from app.settings import Settings
from app.studies.data_checks import Finding, check_images, check_labels, check_leaks, check_rows, check_texts
from app.training.checkpoint import Progress
from app.training.linear_comparison import compare_linear
from app.training.run_summary import describe_training
from app.training.schedule import num_epochs
from app.training.start_from import adopt_architecture
from app.training.step import train_epoch
from app.training.trainer import Training, build, learning_rate_scales
from data import LabelFormat, PreparedData, prepare_data
from data.errors import UserError
from data.messages import excerpt
from models.build import fetch_pretrained

TIMED_STEPS = 6
"""Number of training steps that are timed. The first half warms up and is ignored."""
MARKS = {"ok": "✓", "note": "·", "warning": "!"}
"""Severity of a finding → its mark in the printed report."""


def examine(settings: Settings) -> Iterator[tuple[str, list[Finding]]]:
    """Read the data as a training does, and check it.

    Rows with unreadable images are left out and reported.

    Yields:
        a heading and its findings, as soon as they are known.

    Raises:
        UserError: a training could not read the data either, or they are a stream.
    """
    if settings.data.streaming:
        raise UserError(
            "doctor compares rows with each other, which a stream does not allow: leave out data.streaming."
        )
    settings = adopt_architecture(settings)
    data = prepare_data(replace(settings.data, on_bad_image="skip", slice_by=[]), settings.train.seed)
    form = LabelFormat.of(settings.data)
    checks: dict[str, Callable[[], list[Finding]]] = {
        "rows": partial(check_rows, data),
        "images": partial(check_images, data),
        "texts": partial(check_texts, data),
        "labels": partial(check_labels, data, form),
        "leaks": partial(check_leaks, data, settings.data.group),
        "baselines": partial(check_baselines, settings, data, form),
        "training": partial(check_training, settings, data),
    }
    for heading, check in checks.items():
        yield heading, check()


def check_baselines(settings: Settings, data: PreparedData, form: LabelFormat) -> list[Finding]:
    """Accuracy of the most frequent answer and of linear classifiers on held-out rows, and the highest possible one."""
    train, label2id = data.splits["train"], {name: number for number, name in enumerate(data.label_names)}
    split = "test" if "test" in data.splits else "validation"
    rows = data.splits[split]
    targets = Targets.of(rows.labels, label2id, form, rows.weights)
    majority = form.majority(train.labels, data.label_names, train.weights)
    answer = constant_baseline([label2id[label] for label in majority], len(rows), len(label2id))
    name = " and ".join(f"“{excerpt(label)}”" for label in majority) or "no label"
    parts = [f"always {name} has an accuracy of {accuracy_of(answer, targets)}"]
    try:
        fetch_pretrained(settings.model, *settings.data.encoders)
        accelerator = Accelerator(mixed_precision=choose_precision(settings.train.mixed_precision))
        linear = compare_linear(settings, data.splits, rows, *build(settings, data), accelerator)
    except UserError:  # the training check reports it
        linear = None
    if linear is not None:
        given = {
            LINEAR_TEXT: "the words",
            LINEAR_IMAGE: f"the image ({linear.images})",
            LINEAR_BOTH: "both",
            LINEAR_ALL: "all inputs",
        }
        found = [
            f"{given.get(name, f'the context {name.removeprefix(LINEAR)}')} {accuracy_of(p, targets)}"
            for name, p in linear.centered().items()
        ]
        parts.append(f"logistic regression on {', on '.join(found)}")
    if settings.data.has_text and not any(train.texts.present()):
        parts.append("no row of train has a text")
    parts.append(f"the highest possible accuracy is {targets.mean(targets.best_correctness()):.1%}")
    return [Finding("note", f"{split}: {'; '.join(parts)}")]


def accuracy_of(probabilities: np.ndarray, targets: Targets) -> str:
    return f"{targets.mean(targets.correctness(probabilities)):.1%}"


def check_training(settings: Settings, data: PreparedData) -> list[Finding]:
    """Truncated texts, the size of the model, and the time of a training on this machine."""
    try:
        fetch_pretrained(settings.model, *settings.data.encoders)
    except UserError as error:
        return [Finding("warning", f"A training cannot start. {error}")]
    accelerator = Accelerator(mixed_precision=choose_precision(settings.train.mixed_precision))
    set_seed(settings.train.seed)
    model, processor = build(settings, data)
    options = replace(settings.train, cache_features=False, epochs=1)
    training = Training.set_up(replace(settings, train=options), data, model, processor, accelerator)
    training.to_device(replace(settings, train=options), data, accelerator)
    found = [Finding("note", line) for line in describe_training(training, data, accelerator)]
    not_counted = "without validation"
    if settings.train.cache_features and 0 in learning_rate_scales(settings.train, settings.model).values():
        not_counted += " and without the cache of frozen encoders, which makes it faster"
    ends = [time.perf_counter()]
    training.start_epoch(Progress(), options)
    steps = train_epoch(training, accelerator, options, Progress())
    for _ in tqdm(islice(steps, TIMED_STEPS), "timing steps", TIMED_STEPS, unit="step", leave=False):
        ends.append(time.perf_counter())
    number = training.steps_per_epoch * num_epochs(settings.train, training.steps_per_epoch)
    minutes = float(np.median(np.diff(ends)[-TIMED_STEPS // 2 :])) * number / 60
    duration = f"about {minutes:.0f} minutes" if minutes >= 1 else "less than a minute"
    return [*found, Finding("note", f"{number:,} steps of training take {duration} on this machine, {not_counted}")]
