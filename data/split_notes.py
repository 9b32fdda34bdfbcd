"""Describe the splits in lines for people: sizes, value ranges, weights, labels and shared images."""

from collections import Counter

import numpy as np

from data.image_check import ImageInfo
from data.label_format import LabelFormat
from data.labels import similar_labels
from data.messages import enumerate_names, excerpt
from data.rows import Rows


def describe_split(split: str, rows: Rows, infos: list[ImageInfo]) -> str:
    """Number of rows and images, and the range of image sizes and text lengths."""
    sizes = np.array([info.size for info in infos if info.size]).reshape(-1, 2)
    words = [len(text.split()) for text in rows.texts.present()]
    line = f"{split}: {len(rows):,} rows, {len(set(rows.image_keys) - {None}):,} images"
    if len(sizes):
        low, high = sizes.min(axis=0), sizes.max(axis=0)
        line += (
            f" of {low[0]}×{low[1]} to {high[0]}×{high[1]} px" if (low != high).any() else f" of {low[0]}×{low[1]} px"
        )
    line += f", texts of {min(words)} to {max(words)} words" if words else ", no texts"
    no_text, no_image = len(rows) - len(words) if words else 0, sum(key is None for key in rows.image_keys)
    return line + (f"; {no_text} without text, {no_image} without image" if no_text or no_image else "")


def describe_value_ranges(splits: dict[str, Rows]) -> list[str]:
    """How images of more than 8 bits are read, and warnings about them."""
    lines = []
    for split, rows in splits.items():
        for report in rows.value_range_reports():
            lines.append(f"{split}: {report.describe()}")
            lines += [f"warning: {split}: {warning}" for warning in report.warnings()]
    return lines


def describe_weights(splits: dict[str, Rows], column: str | None) -> list[str]:
    """Range of the row weights of each split, or that it has no weights."""
    lines = []
    for split, rows in splits.items() if column else ():
        if rows.weights is None:
            lines.append(f"{split} has no column {column}: all its rows have weight 1")
        else:
            lines.append(f"{split}: row weights from {rows.weights.min():g} to {rows.weights.max():g} ({column})")
    return lines


def describe_labels(splits: dict[str, Rows], label_names: list[str], form: LabelFormat) -> list[str]:
    """The vocabulary, its coverage of held-out labels, and labels that are probably one class in two spellings."""
    counts = form.count(splits["train"].labels)
    common = ", ".join(f"{excerpt(name)} {count}" for name, count in counts.most_common(5))
    lines = [f"{len(label_names)} labels; most frequent in train: {common}"]
    lines += [
        line
        for split in ("validation", "test")
        if split in splits and (line := describe_unknown_labels(split, splits[split], set(label_names), form))
    ]
    if similar := similar_labels(label_names):
        named = ", ".join(f"[{enumerate_names(names, 5)}]" for names in similar[:5])
        lines.append(f"labels that differ only by case or spaces: [{named}]; --data.normalize_labels true merges them")
    return lines


def describe_unknown_labels(split: str, rows: Rows, known: set[str], form: LabelFormat) -> str | None:
    """Held-out labels outside the vocabulary; ``None`` if there are none."""
    counts = form.count(rows.labels)
    unknown = Counter({name: number for name, number in counts.items() if name not in known})
    if not unknown:
        return None
    names = ", ".join(excerpt(name) for name, _ in unknown.most_common(5))
    if form.type == "single":
        covered = np.average([label in known for label in rows.labels], weights=rows.weights)
        return (
            f"{split}: {covered:.1%} of the rows have a known label, the upper bound of accuracy; {unknown.total()} "
            f"rows with {len(unknown)} unknown labels count as wrong ({names}, …)"
        )
    return (
        f"{split}: {unknown.total()} of {counts.total()} names in the labels are unknown and cannot be predicted "
        f"({names}, …)"
    )


def describe_overlap(splits: dict[str, Rows], pairs: list[tuple[str, str]]) -> list[str]:
    """Warnings about images that occur in two splits."""
    images = {split: set(rows.image_keys) - {None} for split, rows in splits.items()}
    return [
        f"warning: {len(shared)} of the {len(images[split])} images of {split} also occur in {other}"
        for other, split in pairs
        if (shared := images[other] & images[split])
    ]
