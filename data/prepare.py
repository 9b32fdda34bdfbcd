"""Load, check and split the rows for training."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from data.context_check import check_features, fit_contexts, verify_contexts
from data.errors import UserError
from data.exclusion import exclude_images
from data.groups import describe_groups, row_groups
from data.image_check import ImageInfo, verify_images
from data.label_format import LabelFormat
from data.labels import build_vocabulary
from data.loading import load_rows
from data.rows import Rows
from data.settings import DataSettings
from data.shots import draw_shots
from data.split_notes import describe_labels, describe_overlap, describe_split, describe_value_ranges, describe_weights
from data.splits import split_fold, split_validation
from data.value_range import check_range, choose_ranges


@dataclass
class PreparedData:
    """Rows of each split, and the vocabulary of the training rows.

    Attributes:
        splits: ``train``, ``validation`` and, if there is one, ``test``.
        label_names: the vocabulary, in the order of class indices.
        notes: lines about the data and how it was split; warnings start with "warning: ".
        unreadable: row numbers in each source that were left out, because their image or another context cannot be
            read.
        contexts: the entries of the model's ``contexts``, one for each context beside the text.
    """

    splits: dict[str, Rows]
    label_names: list[str]
    notes: list[str] = field(default_factory=list)
    unreadable: dict[str, list[int]] = field(default_factory=dict)
    contexts: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class CheckedSplits:
    """Rows of each split with their images checked, and the `ImageInfo` of each row."""

    rows: dict[str, Rows] = field(default_factory=dict)
    infos: dict[str, list[ImageInfo]] = field(default_factory=dict)

    def keep(self, split: str, places: list[int]) -> None:
        """Keep these rows of a split."""
        self.rows[split], self.infos[split] = self.rows[split].select(places), [self.infos[split][i] for i in places]

    def divide_train(self, indices: tuple[np.ndarray, np.ndarray], split: str) -> None:
        """Keep the first indices of the training rows, and move the second to another split."""
        rows, infos = self.rows["train"], self.infos["train"]
        for name, chosen in zip(("train", split), indices, strict=True):
            self.rows[name], self.infos[name] = rows.select(chosen.tolist()), [infos[i] for i in chosen]


def prepare_data(settings: DataSettings, seed: int) -> PreparedData:
    """Load, check and split everything that training needs.

    Raises:
        UserError: no training source, a fold without the number of folds, or data that cannot be loaded, checked or
            split.
    """
    if settings.train is None:
        raise UserError("No training data: name it with --data.train FILE, or start from one of configs/*.yaml.")
    if settings.fold and not settings.folds:
        raise UserError(
            f"--data.fold {settings.fold} is one of --data.folds, got no number of folds: add --data.folds N, or leave "
            "out --data.fold."
        )
    checked, unreadable = load_splits(settings)
    notes: list[str] = []
    if settings.exclude:
        kept, note = exclude_images(checked.rows, settings.exclude, settings)
        notes.append(note)
        for split, places in kept.items():
            checked.keep(split, places)
    if settings.folds:
        notes.append(hold_out_fold(checked, settings))
    if settings.validation is None:
        notes.append(hold_out_validation(checked, settings, seed))
    scanned = checked.rows["train"].value_stats
    assert scanned is not None
    value_range = check_range(settings.value_range) or choose_ranges(scanned)
    splits = {split: replace(rows, value_range=value_range) for split, rows in checked.rows.items()}
    form = LabelFormat.of(settings)
    label_names = build_vocabulary(form.count(splits["train"].labels), settings.top_k_labels)
    splits["train"] = drop_unknown_labels(splits["train"], label_names, form, notes)
    if settings.shots:
        splits["train"], note = draw_shots(splits["train"], form, settings.shots, seed)
        notes.append(note)
    splits = {split: splits[split] for split in ("train", "validation", "test") if split in splits}
    notes += [describe_split(split, rows, checked.infos[split]) for split, rows in splits.items()]
    notes += describe_value_ranges(splits) + describe_weights(splits, settings.weight)
    notes += describe_labels(splits, label_names, form) + describe_overlap(splits, split_pairs(splits))
    contexts = fit_contexts(splits["train"])
    for split in ("validation", "test"):
        if split in splits:
            notes += check_features(splits[split], contexts, split)
    return PreparedData(splits, label_names, notes, unreadable, contexts)


def load_splits(settings: DataSettings) -> tuple[CheckedSplits, dict[str, list[int]]]:
    """Rows of the sources in the settings, and the numbers of the rows left out for their image."""
    checked, unreadable = CheckedSplits(), {}
    for split in ("train", "validation", "test"):
        source = getattr(settings, split)
        if source is not None:
            rows = load_rows(source, split, settings)
            readable, infos = verify_images(rows, settings)
            checked.rows[split], checked.infos[split] = keep_infos(verify_contexts(readable, settings), readable, infos)
            unreadable[split] = np.setdiff1d(rows.numbers, checked.rows[split].numbers).tolist()
    return checked, unreadable


def keep_infos(kept: Rows, rows: Rows, infos: list[ImageInfo]) -> tuple[Rows, list[ImageInfo]]:
    """The rows that were kept, and their `ImageInfo`."""
    there = set(kept.numbers.tolist())
    return kept, [info for number, info in zip(rows.numbers.tolist(), infos, strict=True) if number in there]


def hold_out_fold(checked: CheckedSplits, settings: DataSettings) -> str:
    """Move one fold of the training rows to test, and describe it. The folds do not depend on the seed of training.

    Raises:
        UserError: a test source or a stream is given, or there are too few rows or groups.
    """
    if settings.test is not None or settings.streaming:
        raise UserError("data.folds takes test rows from the training rows: leave out data.test and data.streaming.")
    rows = checked.rows["train"]
    groups = row_groups(rows, settings.group, settings.pool)
    checked.divide_train(
        split_fold(stratification_labels(rows, settings), groups, settings.folds, settings.fold, seed=0), "test"
    )
    share = len(checked.rows["test"]) / len(rows)
    return (
        f"test is fold {settings.fold} of {settings.folds} of train: {share:.1%} of the rows, grouped by "
        f"{describe_groups(settings.group, settings.pool)}, stratified by label"
    )


def hold_out_validation(checked: CheckedSplits, settings: DataSettings, seed: int) -> str:
    """Move a share of the training rows to validation, and describe it.

    Raises:
        UserError: a stream, or too few rows or groups.
    """
    if settings.streaming:
        raise UserError(
            "A stream cannot be split: with data.streaming, give validation rows with --data.validation FILE."
        )
    rows = checked.rows["train"]
    labels, groups = stratification_labels(rows, settings), row_groups(rows, settings.group, settings.pool)
    checked.divide_train(split_validation(labels, groups, settings.validation_fraction, seed), "validation")
    share = len(checked.rows["validation"]) / len(rows)
    grouped = describe_groups(settings.group, settings.pool)
    return f"validation was split from train: {share:.1%} of the rows, grouped by {grouped}, stratified by label"


def stratification_labels(rows: Rows, settings: DataSettings) -> list[str]:
    """One label for each row to stratify by.

    The most frequent answer of annotators. For multi-label rows the rarest label, as in iterative stratification
    (Sechidis et al. 2011).
    """
    form = LabelFormat.of(settings)
    counts = form.count(rows.labels)
    return [min(form.main_names(label), key=lambda name: (counts[name], name), default="") for label in rows.labels]


def drop_unknown_labels(rows: Rows, label_names: list[str], form: LabelFormat, notes: list[str]) -> Rows:
    """Leave out training rows without a label in the vocabulary, and note their number."""
    known = set(label_names)
    kept = [i for i, label in enumerate(rows.labels) if form.is_trainable(label, known)]
    if len(kept) < len(rows):
        unknown = form.count(rows.labels).keys() - known
        notes.append(
            f"{len(rows) - len(kept)} training rows left out: their {len(unknown)} labels are not among the "
            f"{len(label_names)} most frequent"
        )
    return rows.select(kept)


def split_pairs(splits: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of splits that must not share rows, in the order train, validation, test."""
    return list(combinations([split for split in ("train", "validation", "test") if split in splits], 2))
