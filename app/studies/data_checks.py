"""The checks of `app.studies.doctor` that only compare rows: near-duplicates, contradictory labels, leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from data import LabelFormat, PreparedData, Rows
from data.groups import group_names
from data.messages import excerpt, name_rows
from data.near_duplicates import SIDE, near_duplicates, thumbnail
from data.prepare import split_pairs

SHOWN = 5
"""Number of examples that a finding names. It counts all of them."""
MAX_COMPARED = 20_000
"""Largest number of different images that are compared for near-duplicates."""
RARE = 5
"""A label with fewer training rows is rare."""


class Finding(NamedTuple):
    """One line of the doctor's report.

    Attributes:
        severity: "ok", "note" or "warning".
    """

    severity: str
    message: str


def check_rows(data: PreparedData) -> list[Finding]:
    """Decisions made while reading, rows with unreadable images, and repeated rows."""
    found = [
        Finding("warning" if line.startswith("warning") else "note", line.removeprefix("warning: "))
        for line in data.notes
    ]
    what = "an image or a context" if data.contexts else "an image"
    for split, numbers in data.unreadable.items():
        if numbers:
            message = (
                f"{split}: {len(numbers):,} rows have {what} that cannot be read ({name_rows(numbers)}); training "
                "stops with an error, or leaves them out with --data.on_bad_image skip"
            )
            found.append(Finding("warning", message))
    inputs = "inputs" if data.contexts else "image, text"
    for split, rows in data.splits.items():
        counts = Counter(zip(rows.input_keys(), rows.labels, strict=True))
        if repeated := sum(number - 1 for number in counts.values()):
            found.append(Finding("note", f"{split}: {repeated:,} rows repeat another: the same {inputs} and label"))
    return found


def check_images(data: PreparedData) -> list[Finding]:
    """Near-duplicate images, above all in different splits."""
    first: dict[str, tuple[str, int]] = {}
    for split in sorted(data.splits, key="train".__eq__):  # train last: only its images may be left out
        for place, key in enumerate(data.splits[split].image_keys):
            if key is not None:
                first.setdefault(key, (split, place))
    places = list(first.values())[:MAX_COMPARED]
    all_compared = len(places) == len(first)
    thumbnails = []
    for split, place in tqdm(places, "comparing images", unit="image", leave=False):
        thumbnails.append(thumbnail(data.splits[split].decoded_image(place, SIDE)))
    pairs = near_duplicates(np.stack(thumbnails)) if thumbnails else []
    across = [pair for pair in pairs if places[pair[0]][0] != places[pair[1]][0]]
    left_out = "" if all_compared else f" ({MAX_COMPARED:,} of {len(first):,} were compared, held-out images first)"
    if not pairs:
        message = f"no two of the {len(places):,} different images are nearly equal{left_out}"
        return [Finding("ok" if all_compared else "note", message)]
    named = "; ".join(" and ".join(name_image(data, *places[i]) for i in pair) for pair in (across or pairs)[:SHOWN])
    message = (
        f"{len(pairs):,} pairs of images are nearly equal{left_out}, {len(across):,} of them in two splits: {named}"
    )
    return [Finding("warning" if across else "note", message)]


def name_image(data: PreparedData, split: str, place: int) -> str:
    """Split, row and file name of an image."""
    example = data.splits[split][place]
    name = f" {example.image.rpartition('/')[2]}" if isinstance(example.image, str) else ""
    return f"{split} row {example.row}{name}"


def check_texts(data: PreparedData) -> list[Finding]:
    """Number of different texts and their lengths in words."""
    found = []
    for split, rows in data.splits.items():
        words = np.array([len(text.split()) for text in rows.texts.present()])
        if len(words):
            message = (
                f"{split}: {len(set(rows.texts.present())):,} different texts; median {np.median(words):.0f} words, "
                f"95th percentile {np.quantile(words, 0.95):.0f}, maximum {words.max():,}"
            )
            found.append(Finding("note", message))
    return found


def check_labels(data: PreparedData, form: LabelFormat) -> list[Finding]:
    """Frequency of the labels, rare labels, and equal inputs with different labels."""
    rows = data.splits["train"]
    counts = form.count(rows.labels).most_common()
    is_annotators = form.type == "annotators"
    unit, total = ("answers", form.count(rows.labels).total()) if is_annotators else ("rows", len(rows))
    found = [
        Finding("note", f"{excerpt(name)}: {number:,} {unit} ({number / total:.1%})")
        for name, number in counts[: 2 * SHOWN]
    ]
    if len(counts) > 2 * SHOWN:
        found.append(Finding("note", f"… and {len(counts) - 2 * SHOWN:,} more labels"))
    ratio = counts[0][1] / counts[-1][1]
    if ratio > 10:
        option = "sampling" if is_annotators else "class_weights"
        message = f"the most frequent label has {ratio:.0f} times as many {unit} as the rarest; "
        found.append(Finding("warning", message + f"--train.{option} balanced compensates for that"))
    if rare := [name for name, number in counts if number < RARE]:
        message = f"{len(rare):,} labels have fewer than {RARE} rows in train: {first_names(rare)}"
        found.append(Finding("warning", message))
    for split, rows in data.splits.items():
        if contradictory := contradictions(rows, form):
            examples = "; ".join(
                f"rows {', '.join(map(str, numbers))}: {' / '.join(map(excerpt, labels))}"
                for numbers, labels in contradictory[:SHOWN]
            )
            pairs = "inputs" if rows.contexts else "pairs of an image and a text"
            message = f"{split}: {len(contradictory):,} {pairs} have several labels: {examples}"
            found.append(Finding("warning", message))
    return found


def contradictions(rows: Rows, form: LabelFormat) -> list[tuple[list[int], list[str]]]:
    """Rows with the same image, text and contexts but different labels: their numbers, and their labels.

    The order of the names within a label does not matter.
    """
    places = defaultdict(list)
    for place, keys in enumerate(rows.input_keys()):
        places[keys].append(place)
    found = []
    for same in places.values():
        labels = sorted({form.join(sorted(form.names(rows.labels[place]))) for place in same}) if len(same) > 1 else []
        if len(labels) > 1:
            found.append(([int(rows.numbers[place]) for place in same], labels))
    return found


def check_leaks(data: PreparedData, group: str | None) -> list[Finding]:
    """Rows with the same inputs, and groups such as patients, that are in two splits."""
    keys = {split: rows.input_keys() for split, rows in data.splits.items()}
    inputs = "the same inputs as rows" if data.contexts else "an image and text"
    names: dict[str, set[str]] = {}
    found: list[Finding] = []
    for split, rows in data.splits.items():
        if group and group in rows.table.column_names:
            names[split] = {name for name in group_names(rows, group) if name is not None}
        elif group:
            message = f"{split} has no column {group}: its groups were not compared with those of other splits"
            found.append(Finding("warning", message))
    for other, split in split_pairs(data.splits):
        seen = set(keys[other])
        if same := sum(key in seen for key in keys[split]):
            message = f"{same:,} of the {len(keys[split]):,} rows of {split} have {inputs} of {other}"
            found.append(Finding("warning", message))
        if shared := names.get(other, set()) & names.get(split, set()):
            message = f"{len(shared):,} values of {group} of {split} also occur in {other}: {first_names(shared)}"
            found.append(Finding("warning", message))
    groups = f", and no {group}," if group else ""
    what = "no row" if data.contexts else "no pair of an image and a text"
    return found or [Finding("ok", f"{what}{groups} is in two splits")]


def first_names(names: Iterable[str]) -> str:
    """The first `SHOWN` names in alphabetical order."""
    ordered = sorted(names)
    return ", ".join(map(excerpt, ordered[:SHOWN])) + (", …" if len(ordered) > SHOWN else "")
