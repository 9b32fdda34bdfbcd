"""From the data section of a configuration to checked rows for train, validation and test."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from data.cells import cell_text
from data.errors import UserError
from data.image_check import Look, scan_images
from data.label_format import LabelFormat
from data.labels import build_vocabulary, similar_labels
from data.messages import enumerate_names, excerpt
from data.rows import Rows, load_rows
from data.settings import DataSettings
from data.splits import connect_groups, cut_fold, cut_validation
from data.value_range import check_range, choose_ranges


@dataclass
class PreparedData:
    """Rows of each split that there is, the label names learnt from train, and what was decided on the way.

    ``unreadable`` are the numbers of the rows of each source that were left out, their image being one that cannot be
    read.
    """

    splits: dict[str, Rows]
    label_names: list[str]
    decisions: list[str] = field(default_factory=list)
    unreadable: dict[str, list[int]] = field(default_factory=dict)


def prepare_data(settings: DataSettings, seed: int) -> PreparedData:
    """Load, check and split everything that training needs.

    Raises:
        UserError: no training source, or anything `load_rows`, `scan_images` or the cut cannot use.
    """
    if settings.train is None:
        raise UserError("No training data: name it with --data.train FILE, or start from one of configs/*.yaml.")
    decisions: list[str] = []
    splits: dict[str, Rows] = {}
    looks: dict[str, list[Look]] = {}
    unreadable: dict[str, list[int]] = {}
    for split in ("train", "validation", "test"):
        source = getattr(settings, split)
        if source is not None:
            rows = load_rows(source, split, settings)
            splits[split], looks[split] = scan_images(rows, settings)
            unreadable[split] = np.setdiff1d(rows.numbers, splits[split].numbers).tolist()
    if settings.folds:
        hold_out_fold(settings, splits, looks, decisions)
    if settings.validation is None and settings.streaming:
        raise UserError(
            "A stream cannot be cut: with data.streaming, give validation rows with --data.validation FILE."
        )
    if settings.validation is None:
        rows = splits["train"]
        cut = cut_validation(
            strata(rows, settings), row_groups(rows, settings.group), settings.validation_fraction, seed
        )
        divide("validation", cut, splits, looks)
        share = len(splits["validation"]) / len(rows)
        by = describe_groups(settings.group)
        decisions.append(f"validation was cut from train: {share:.1%} of the rows by {by}, stratified by label")
    scanned = splits["train"].values
    assert scanned is not None
    value_range = check_range(settings.value_range) or choose_ranges(scanned)
    splits = {split: replace(rows, value_range=value_range) for split, rows in splits.items()}
    form = LabelFormat.of(settings)
    label_names = build_vocabulary(form.count(splits["train"].labels), settings.top_k_labels)
    splits["train"] = leave_out_unknown(splits["train"], label_names, form, decisions)
    splits = {split: splits[split] for split in ("train", "validation", "test") if split in splits}
    decisions += [describe_split(split, rows, looks[split]) for split, rows in splits.items()]
    for split, rows in splits.items():
        for found in rows.value_figures():
            decisions += [f"{split}: {found.describe()}", *(f"warning: {split}: {line}" for line in found.warnings())]
    decisions += describe_weights(splits, settings.weight)
    decisions += describe_labels(splits, label_names, form) + describe_overlap(splits)
    return PreparedData(splits, label_names, decisions, unreadable)


def hold_out_fold(
    settings: DataSettings, splits: dict[str, Rows], looks: dict[str, list[Look]], decisions: list[str]
) -> None:
    """Make one fold of the training rows the test rows; the folds are the same whatever the seed of the training.

    Raises:
        UserError: there are test rows already, the rows are a stream, or they cannot be dealt so.
    """
    if settings.test is not None or settings.streaming:
        raise UserError("data.folds deals the training rows: leave out data.test, and data.streaming.")
    rows = splits["train"]
    cut = cut_fold(strata(rows, settings), row_groups(rows, settings.group), settings.folds, settings.fold, seed=0)
    divide("test", cut, splits, looks)
    decisions.append(
        f"test is fold {settings.fold} of {settings.folds} of train: {len(splits['test']) / len(rows):.1%} of the rows "
        f"by {describe_groups(settings.group)}, stratified by label"
    )


def strata(rows: Rows, settings: DataSettings) -> list[str]:
    """What is spread evenly over the parts of a cut: the label, the annotators' most frequent answer, or of several
    labels the rarest, as iterative stratification takes it first (Sechidis et al. 2011)."""
    form = LabelFormat.of(settings)
    counts = form.count(rows.labels)
    return [min(form.main(label), key=lambda name: (counts[name], name), default="") for label in rows.labels]


def row_groups(rows: Rows, group: str | None) -> np.ndarray:
    """Group of each row: rows of one image, or of one value of the column, belong together."""
    return connect_groups(rows.image_keys, *([group_names(rows, group)] if group else []))


def group_names(rows: Rows, group: str) -> list[str | None]:
    """The value of a group's column in each row; ``None`` where the cell is empty: of no group, not of one together."""
    return [(cell_text(value) or "").strip() or None for value in rows.column(group)]


def describe_groups(group: str | None) -> str:
    """What `row_groups` goes by, in words."""
    return f"image and {group}" if group else "image"


def divide(
    split: str, cut: tuple[np.ndarray, np.ndarray], splits: dict[str, Rows], looks: dict[str, list[Look]]
) -> None:
    """Let the second part of the training rows be another split."""
    rows, seen = splits["train"], looks["train"]
    for name, chosen in zip(("train", split), cut, strict=True):
        splits[name], looks[name] = rows.select(chosen.tolist()), [seen[i] for i in chosen]


def leave_out_unknown(rows: Rows, label_names: list[str], form: LabelFormat, decisions: list[str]) -> Rows:
    """Training rows whose label is not among the ``top_k_labels`` teach nothing; they are left out and counted."""
    known = set(label_names)
    kept = [i for i, label in enumerate(rows.labels) if form.known(label, known)]
    if len(kept) < len(rows):
        left_out = form.count(rows.labels).keys() - known
        decisions.append(
            f"{len(rows) - len(kept)} training rows left out: their {len(left_out)} labels are not among the "
            f"{len(label_names)} most frequent"
        )
    return rows.select(kept)


def describe_split(split: str, rows: Rows, looks: list[Look]) -> str:
    """Rows, images, and the range of image sizes and text lengths in one line."""
    sizes = np.array([look.size for look in looks if look.size]).reshape(-1, 2)
    words = np.array([len((text or "").split()) for text in rows.texts])
    line = f"{split}: {len(rows):,} rows, {len(set(rows.image_keys) - {None}):,} images"
    if len(sizes):
        low, high = sizes.min(axis=0), sizes.max(axis=0)
        line += (
            f" of {low[0]}×{low[1]} to {high[0]}×{high[1]} px" if (low != high).any() else f" of {low[0]}×{low[1]} px"
        )
    line += f", texts of {words.min()} to {words.max()} words"
    missing = [sum(text is None for text in rows.texts), sum(key is None for key in rows.image_keys)]
    return line + (f"; {missing[0]} without text, {missing[1]} without image" if any(missing) else "")


def describe_weights(splits: dict[str, Rows], column: str | None) -> list[str]:
    """What rows count, and where the column that tells it is missing."""
    lines = []
    for split, rows in splits.items() if column else ():
        if column not in rows.table.column_names:
            lines.append(f"{split} has no column {column}: all its rows count alike")
        else:
            assert rows.weights is not None
            lines.append(f"{split}: rows count {rows.weights.min():g} to {rows.weights.max():g} ({column})")
    return lines


def describe_labels(splits: dict[str, Rows], label_names: list[str], form: LabelFormat) -> list[str]:
    """The vocabulary, what of the held-out labels it covers, and labels that look like one class written twice."""
    counts = form.count(splits["train"].labels)
    common = ", ".join(f"{excerpt(name)} {count}" for name, count in counts.most_common(5))
    lines = [f"{len(label_names)} labels; most frequent in train: {common}"]
    known = set(label_names)
    for split in ("validation", "test"):
        if split in splits:
            labels = splits[split].labels
            unknown = Counter({name: number for name, number in form.count(labels).items() if name not in known})
            if unknown and form.type == "single":
                covered = np.average([label in known for label in labels], weights=splits[split].weights)
                names = ", ".join(excerpt(name) for name, _ in unknown.most_common(5))
                lines.append(
                    f"{split}: {covered:.1%} of the rows have a known label, the ceiling of any accuracy; "
                    f"{unknown.total()} rows with {len(unknown)} unknown labels count as wrong ({names}, …)"
                )
            elif unknown:
                names = ", ".join(excerpt(name) for name, _ in unknown.most_common(5))
                lines.append(
                    f"{split}: {unknown.total()} of the {form.count(labels).total()} names in labels are not known "
                    f"and cannot be answered ({names}, …)"
                )
    if similar := similar_labels(label_names):
        named = ", ".join(f"[{enumerate_names(names, 5)}]" for names in similar[:5])
        lines.append(f"labels that differ by case or spaces alone: [{named}]; --data.normalize_labels true joins them")
    return lines


def describe_overlap(splits: dict[str, Rows]) -> list[str]:
    """Images that stand in two splits, where the user gave the splits."""
    images = {split: set(rows.image_keys) - {None} for split, rows in splits.items()}
    return [
        f"warning: {len(shared)} of the {len(images[split])} images of {split} also occur in {other}"
        for other, split in pairs_of(splits)
        if (shared := images[other] & images[split])
    ]


def pairs_of(splits: Iterable[str]) -> list[tuple[str, str]]:
    """Every two splits that must not share rows, the one that is learnt from, or chosen by, first."""
    return list(combinations([split for split in ("train", "validation", "test") if split in splits], 2))
