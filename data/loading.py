"""Load the rows of a source and check their texts, labels and weights."""

from dataclasses import dataclass, field

import numpy as np
from datasets import ClassLabel, Dataset, IterableDataset

from data.cells import as_number, is_clean
from data.column_names import refuse_repeated, require_columns
from data.contexts import context_columns, file_columns
from data.errors import UserError
from data.label_format import LabelFormat
from data.labels import NoLabelsError
from data.messages import name_rows
from data.paths import user_path
from data.rows import Rows
from data.settings import TEXT_SLICES, DataSettings
from data.sources import fetch_files, iterate, load_source
from data.string_column import StringColumn, write_columns
from data.text_template import make_text, text_columns
from data.value_range import check_range

MIN_WEIGHT, MAX_WEIGHT = 1e-6, 1e6
"""Range of row weights other than 0. Sums in float32 stay accurate within it."""


def load_rows(source: str, split: str, settings: DataSettings) -> Rows:
    """Load a source and check its columns, texts, labels and weights. `data.image_check.verify_images` checks images.

    Rows with a weight of 0 are left out.

    Raises:
        UserError: no rows, missing columns, or invalid texts, labels or weights; names the rows.
    """
    value_range = check_range(settings.value_range)
    table, folder = load_source(source, split, streaming=settings.streaming and split == "train")
    first = next(iterate(table, source), None)
    if first is None:
        raise UserError(f"{source} has no rows.")
    contexts = settings.further_contexts()
    if contexts and settings.streaming:
        raise UserError("A stream has an image and a text; for other contexts train with --data.streaming false.")
    if settings.frames > 1 and any(context.kind == "image" for context in contexts):
        raise UserError("With videos (in training, --data.frames) a context of the kind image is not supported yet.")
    check_columns(list(first), source, split, settings)
    root = user_path(settings.image_root) if settings.image_root else folder
    fetch_files(table, {settings.image: ""} | file_columns(contexts), root)
    texts, labels = read_texts_and_labels(table, source, settings)
    weight = settings.weight
    weights = read_weights(table, weight, source) if weight and weight in first else None
    rows = Rows(
        source,
        table,
        settings.image,
        image_root=root,
        numbers=np.arange(len(texts)),
        texts=texts,
        labels=labels,
        image_keys=write_columns([], 1)[0],
        table_weights=weights,
        confined=settings.confine_images,
        value_range=value_range,
        frames=settings.frames,
        contexts=contexts,
    )
    return rows if weights is None else rows.select(np.flatnonzero(weights).tolist())


def check_columns(columns: list[str], source: str, split: str, settings: DataSettings) -> None:
    """Check that the columns named by the settings exist. ``group`` and ``weight`` are required only in train."""
    wanted = {"image": [settings.image], "text": text_columns(settings.text), "label": [settings.label]}
    if not settings.has_text:
        del wanted["text"]
    wanted |= {f"context.{context.name}": list(context_columns([context])) for context in settings.further_contexts()}
    if settings.group and split == "train":
        wanted["group"] = [settings.group]
    if settings.weight and split == "train":
        wanted["weight"] = [settings.weight]
    if split == scored_split(settings):
        wanted["slice_by"] = [name for name in settings.slice_by if name not in TEXT_SLICES]
    require_columns(columns, wanted, source)
    optional = {"group": [settings.group or ""], "weight": [settings.weight or ""], "slice_by": settings.slice_by}
    for setting, names in optional.items():
        refuse_repeated(columns, setting, names, source)


def scored_split(settings: DataSettings) -> str:
    """The source that is scored after training; validation and test rows may be part of train at this point."""
    if settings.folds:
        return "train"
    if settings.test is not None:
        return "test"
    return "validation" if settings.validation is not None else "train"


def read_texts_and_labels(
    table: Dataset | IterableDataset, source: str, settings: DataSettings
) -> tuple[StringColumn, StringColumn]:
    """The text and the label of each row, in one pass over the table.

    Raises:
        UserError: missing or invalid texts or labels; names the rows.
    """

    def read(number: int, row: dict) -> tuple[str | None, str | None]:
        try:
            text = make_text(row, settings.text) if settings.has_text else None
            label = form.parse(row[settings.label], class_names, settings.normalize_labels)
        except UserError as error:
            raise UserError(f"Row {number} of {source} (counted from 0): {error}") from error
        return faults.check_text(number, text) if settings.has_text else None, faults.check_label(number, label)

    feature = (table.features or {}).get(settings.label)
    feature = getattr(feature, "feature", feature)  # the items of a list
    class_names = feature.names if isinstance(feature, ClassLabel) else None
    form = LabelFormat.of(settings)
    faults = RowFaults()
    named = text_columns(settings.text) if settings.has_text else []
    cells = table.select_columns(list(dict.fromkeys([*named, settings.label])))
    texts, labels = write_columns((read(number, row) for number, row in enumerate(iterate(cells, source))), 2)
    faults.raise_for(source, settings)
    return texts, labels


def read_weights(table: Dataset | IterableDataset, column: str, source: str) -> np.ndarray:
    """The weight of each row; prints which rows have a weight of 0.

    Raises:
        UserError: invalid weights, or only weights of 0; names the rows.
    """
    values = [row[column] for row in iterate(table.select_columns([column]), source)]
    weights = np.array([as_number(value) for value in values], dtype=np.float64)
    valid = (weights == 0) | ((weights >= MIN_WEIGHT) & (weights <= MAX_WEIGHT))
    raise_for_rows(
        np.flatnonzero(~valid).tolist(),
        source,
        f"have an invalid weight in column {column!r}",
        f"Weights are 0, or from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}.",
    )
    if not weights.any():
        raise UserError(f"All weights in column {column!r} of {source} are 0; at least one row needs a weight above 0.")
    if len(zeros := np.flatnonzero(weights == 0)):
        print(f"{len(zeros)} rows of {source} have a weight of 0 and are left out: {name_rows(zeros.tolist())}")
    return weights


@dataclass
class RowFaults:
    """Row numbers with a missing label, a missing text, or a text that is not valid Unicode."""

    no_label: list[int] = field(default_factory=list)
    no_text: list[int] = field(default_factory=list)
    unclean: list[int] = field(default_factory=list)

    def check_label(self, row: int, label: str | None) -> str | None:
        """The label; records the row if it is missing."""
        if label is None:
            self.no_label.append(row)
        return label

    def check_text(self, row: int, text: str | None) -> str | None:
        """The text; records the row if it is missing or invalid, and returns ``None`` for an invalid text."""
        if text is None:
            self.no_text.append(row)
        elif not is_clean(text):
            self.unclean.append(row)
            return None
        return text

    def raise_for(self, source: str, settings: DataSettings) -> None:
        """Raise an error for the recorded rows; rows without a text are accepted with ``allow_missing``."""
        no_class = f" A row of no class has {settings.label_separator!r} or an empty list."
        raise_for_rows(
            self.no_label,
            source,
            f"have no label in column {settings.label!r}",
            "Fill them in or delete these rows." + (no_class if settings.label_type == "multi" else ""),
            NoLabelsError,
        )
        if not settings.allow_missing:
            raise_for_rows(
                self.no_text,
                source,
                f"have an empty text ({settings.text!r})",
                "Fill them in, delete these rows, or train with a learned 'no text' token: --data.allow_missing true.",
            )
        raise_for_rows(
            self.unclean,
            source,
            "have a text with NUL characters or lone surrogates, which no tokenizer can read",
            "The file was probably saved in another encoding; repair these rows.",
        )


def raise_for_rows(rows: list[int], source: str, fault: str, cure: str, error: type[UserError] = UserError) -> None:
    """Raise an error that counts and names the rows, if there are any."""
    if rows:
        raise error(f"{len(rows)} rows of {source} {fault}: {name_rows(rows)} (counted from 0). {cure}")
