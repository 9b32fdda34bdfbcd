"""A look at the data before any training: what is broken, what leaks, what a model could and could not learn."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from app.evaluation.baselines import always, text_baseline
from app.evaluation.targets import Truth
from app.precision import choose_precision
from app.settings import Settings
from app.studies.duplicates import near_duplicates, thumbnail
from app.training.checkpoint import Progress
from app.training.run_summary import describe_training
from app.training.step import train_epoch
from app.training.trainer import Training, build, learning_rate_scales
from data import LabelFormat, PreparedData, Rows, prepare_data
from data.errors import UserError
from data.messages import excerpt, name_rows
from data.prepare import group_names, split_pairs

SHOWN = 5
"""Examples of a finding that are named; all are counted."""
MAX_COMPARED = 20_000
"""Different images among which near-duplicates are looked for."""
TIMED_STEPS = 6
"""Steps of training that are timed; the second half counts."""
RARE = 5
"""Rows below which a label is called rare."""

Finding = tuple[str, str]
"""How grave it is, one of `MARKS`, and what was found."""
MARKS = {"ok": "✓", "note": "·", "warning": "!"}


def examine(settings: Settings) -> Iterator[tuple[str, list[Finding]]]:
    """Read the data as training would, and look at it from all sides.

    Images that cannot be read do not stop it: they are named and their rows left out.

    Yields:
        what was found under each heading, as it is found.

    Raises:
        UserError: what training could not read either, but for images.
    """
    if settings.data.streaming:
        raise UserError(
            "doctor compares rows with each other, which a stream does not allow: leave out data.streaming."
        )
    data = prepare_data(replace(settings.data, on_bad_image="skip", slice_by=[]), settings.train.seed)
    form = LabelFormat.of(settings.data)
    checks: dict[str, Callable[[], list[Finding]]] = {
        "rows": partial(check_rows, data),
        "images": partial(check_images, data),
        "texts": partial(check_texts, data),
        "labels": partial(check_labels, data, form),
        "leaks": partial(check_leaks, data, settings.data.group),
        "without the image": partial(check_baselines, data, form),
        "training": partial(check_cost, settings, data),
    }
    for heading, check in checks.items():
        yield heading, check()


def check_rows(data: PreparedData) -> list[Finding]:
    """What was decided while reading, rows whose image cannot be read, and rows that stand twice."""
    found = [
        ("warning" if line.startswith("warning") else "note", line.removeprefix("warning: ")) for line in data.notes
    ]
    found += [
        (
            "warning",
            f"{split}: {len(numbers):,} rows have an image that cannot be read ({name_rows(numbers)}); training stops "
            "at them, or leaves them out with --data.on_bad_image skip",
        )
        for split, numbers in data.unreadable.items()
        if numbers
    ]
    for split, rows in data.splits.items():
        pairs = Counter(zip(rows.image_keys, rows.texts, rows.labels, strict=True))
        if twice := sum(number - 1 for number in pairs.values()):
            found.append(("note", f"{split}: {twice:,} rows repeat another: the same image, text and label"))
    return found


def check_images(data: PreparedData) -> list[Finding]:
    """Near-duplicates across the splits."""
    first: dict[str, tuple[str, int]] = {}
    for split in sorted(data.splits, key="train".__eq__):  # those of train last: they are the ones to leave out
        for place, key in enumerate(data.splits[split].image_keys):
            if key is not None:
                first.setdefault(key, (split, place))
    places = list(first.values())[:MAX_COMPARED]
    all_compared = len(places) == len(first)
    thumbnails = []
    for split, place in tqdm(places, "comparing images", unit="image", leave=False):
        thumbnails.append(thumbnail(data.splits[split].picture(place)))
    pairs = near_duplicates(np.stack(thumbnails)) if thumbnails else []
    across = [pair for pair in pairs if places[pair[0]][0] != places[pair[1]][0]]
    left_out = "" if all_compared else f" ({MAX_COMPARED:,} of {len(first):,} were compared, held-out ones first)"
    if not pairs:
        return [
            (
                "ok" if all_compared else "note",
                f"no two of the {len(places):,} different images are nearly the same{left_out}",
            )
        ]
    named = "; ".join(
        " and ".join(describe_place(data, *places[i]) for i in pair) for pair in (across or pairs)[:SHOWN]
    )
    return [
        (
            "warning" if across else "note",
            f"{len(pairs):,} pairs of images are nearly the same{left_out}, {len(across):,} of them in two splits: "
            f"{named}",
        )
    ]


def describe_place(data: PreparedData, split: str, place: int) -> str:
    """The name of an image in a table, or its row."""
    example = data.splits[split][place]
    name = f" {example.image.rpartition('/')[2]}" if isinstance(example.image, str) else ""
    return f"{split} row {example.row}{name}"


def check_texts(data: PreparedData) -> list[Finding]:
    """How many different ones there are, and how long they are."""
    found = []
    for split, rows in data.splits.items():
        words = np.array([len(text.split()) for text in rows.texts.present()])
        if len(words):
            long = np.quantile(words, 0.95)
            different = len(set(rows.texts.present()))
            found.append(
                (
                    "note",
                    f"{split}: {different:,} different texts; half have up to {np.median(words):.0f} words, "
                    f"19 of 20 up to {long:.0f}, the longest {words.max():,}",
                )
            )
    return found


def check_labels(data: PreparedData, form: LabelFormat) -> list[Finding]:
    """How often each is, and equal inputs that are labelled differently."""
    rows = data.splits["train"]
    counts = form.count(rows.labels).most_common()
    what, total = ("answers", form.count(rows.labels).total()) if form.type == "annotators" else ("rows", len(rows))
    found = [
        ("note", f"{excerpt(name)}: {number:,} {what} ({number / total:.1%})") for name, number in counts[: 2 * SHOWN]
    ]
    if len(counts) > 2 * SHOWN:
        found.append(("note", f"… and {len(counts) - 2 * SHOWN:,} more labels"))
    if counts[0][1] > 10 * counts[-1][1]:
        found.append(
            (
                "warning",
                f"the most frequent label has {counts[0][1] / counts[-1][1]:.0f} times the {what} of the rarest; "
                f"--train.{'sampling' if form.type == 'annotators' else 'class_weights'} balanced evens that out",
            )
        )
    if rare := [name for name, number in counts if number < RARE]:
        found.append(("warning", f"{len(rare):,} labels have fewer than {RARE} rows in train: {shorten(rare)}"))
    for split, rows in data.splits.items():
        noisy = contradictions(rows, form)
        if noisy:
            told = "; ".join(
                f"rows {', '.join(map(str, numbers))}: {' / '.join(map(excerpt, labels))}"
                for numbers, labels in noisy[:SHOWN]
            )
            found.append(
                ("warning", f"{split}: {len(noisy):,} pairs of an image and a text have several labels: {told}")
            )
    return found


def contradictions(rows: Rows, form: LabelFormat) -> list[tuple[list[int], list[str]]]:
    """Rows with the same image and text, and their labels, where these differ by more than the order of names."""
    places = defaultdict(list)
    for place, pair in enumerate(zip(rows.image_keys, rows.texts, strict=True)):
        places[pair].append(place)
    found = []
    for same in places.values():
        labels = sorted({form.join(sorted(form.names(rows.labels[place]))) for place in same}) if len(same) > 1 else []
        if len(labels) > 1:
            found.append(([int(rows.numbers[place]) for place in same], labels))
    return found


def check_leaks(data: PreparedData, group: str | None) -> list[Finding]:
    """What stands in two splits: pairs, and groups such as patients."""
    pairs = {split: list(zip(rows.image_keys, rows.texts, strict=True)) for split, rows in data.splits.items()}
    names: dict[str, set[str]] = {}
    found: list[Finding] = []
    for split, rows in data.splits.items():
        if group and group in rows.table.column_names:
            names[split] = {name for name in group_names(rows, group) if name is not None}
        elif group:
            found.append(("warning", f"{split} has no column {group}: whether others have the same was not checked"))
    for other, split in split_pairs(data.splits):
        seen = set(pairs[other])
        if same := sum(pair in seen for pair in pairs[split]):
            of = f"{same:,} of the {len(pairs[split]):,} rows of {split}"
            found.append(("warning", f"{of} have an image and text of {other}"))
        if shared := names.get(other, set()) & names.get(split, set()):
            told = f"{len(shared):,} values of {group} of {split} also occur in {other}: {shorten(shared)}"
            found.append(("warning", told))
    return found or [
        (
            "ok",
            "no pair of an image and a text" + (f", and no {group}," if group else "") + " is in two splits",
        )
    ]


def check_baselines(data: PreparedData, form: LabelFormat) -> list[Finding]:
    """What the majority answer and the text alone (bag of words, logistic regression) give on held-out rows."""
    train, label2id = data.splits["train"], {name: number for number, name in enumerate(data.label_names)}
    majority = form.majority(train.labels, data.label_names, train.weights)
    told = " and ".join(f"“{excerpt(name)}”" for name in majority) or "no label"
    found = []
    for split in ("validation", "test"):
        if split not in data.splits:
            continue
        rows = data.splits[split]
        truth = Truth.of(rows.labels, label2id, form, rows.weights)
        answer = always([label2id[name] for name in majority], len(rows), len(label2id))
        words = "no row of train has a text"
        if any(train.texts.present()):
            text = text_baseline(train, rows, label2id, form)
            words = f"the text alone (bag of words, logistic regression) in {truth.mean(truth.right(text)):.1%}"
        found.append(
            (
                "note",
                f"{split}: always {told} is right in {truth.mean(truth.right(answer)):.1%} of the rows, {words}, "
                f"{truth.mean(truth.best()):.1%} could be",
            )
        )
    return found


def check_cost(settings: Settings, data: PreparedData) -> list[Finding]:
    """The model that would be trained: texts that it cuts, and how long the training takes on this machine."""
    accelerator = Accelerator(mixed_precision=choose_precision(settings.train.mixed_precision))
    set_seed(settings.train.seed)
    model, processor = build(settings, data)
    options = replace(settings.train, cache_features=False, epochs=1)
    training = Training.set_up(replace(settings, train=options), data, model, processor, accelerator)
    training.to_device(replace(settings, train=options), data, accelerator)
    found = [("note", line) for line in describe_training(training, data, accelerator)]
    left_out = "validation"
    if settings.train.cache_features and 0 in learning_rate_scales(settings.train, settings.model).values():
        left_out += " and what the cache of frozen encoders saves"
    ends = [time.perf_counter()]
    training.start_epoch(Progress(), options)
    steps = train_epoch(training, accelerator, options, Progress())
    for _ in tqdm(islice(steps, TIMED_STEPS), "timing steps", TIMED_STEPS, unit="step", leave=False):
        ends.append(time.perf_counter())
    number = training.steps_per_epoch * settings.train.epochs
    minutes = float(np.median(np.diff(ends)[-TIMED_STEPS // 2 :])) * number / 60
    told = f"about {minutes:.0f} minutes" if minutes >= 1 else "under a minute"
    return [*found, ("note", f"{number:,} steps of training take {told} on this machine, {left_out} not counted")]


def shorten(names: Sequence[str] | set[str]) -> str:
    """The first few."""
    shown = [excerpt(str(name)) for name in sorted(names)[:SHOWN]]
    return ", ".join(shown) + (", …" if len(names) > SHOWN else "")
