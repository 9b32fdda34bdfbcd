"""The data section of a configuration."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveInt

TEXT_SLICES = ("text_tokens", "text_cut")
"""Names in ``slice_by`` that are no columns: how long the text is, and whether it is longer than the model reads."""


@dataclass
class DataSettings:
    """What to read, and how rows become image, text and label."""

    train: str | None = None
    """Training rows: a .csv, .tsv, .json, .jsonl or .parquet file, a folder saved by datasets, a folder of images with
    metadata in one of these formats, a Hub id (owner/name, or owner/name:split), or shapes:N for N pictures of the
    built-in data."""
    validation: str | None = None
    """Validation rows, on which the best model is chosen; cut from the training rows when not given."""
    test: str | None = None
    """Held-out rows, used once, after training."""
    image: str = "image"
    """Column with the path of the image (relative to image_root) or the image itself."""
    text: str = "text"
    """Column with the text, or a template of several, such as "{question} {report}"; {{ and }} are braces."""
    label: str = "label"
    """Column with the label: a string, a number or a boolean (see docs/tables.md)."""
    label_type: Literal["single", "multi", "annotators"] = "single"
    """single (one class a row), multi (any number of classes, as "a|b" or a list; "|" or [] for none of them) or
    annotators (the answers of several people, "yes|yes|no" or a list, of which some may disagree)."""
    label_separator: str = "|"
    """What stands between the names of one label."""
    weight: str | None = None
    """Column with what each row counts in the loss and in figures, 0 or more; rows of 0 are left out. All are alike
    when not given, and in held-out files without it."""
    image_root: str | None = None
    """Folder that image paths are relative to; the folder of the table when not given."""
    confine_images: bool = False
    """Refuse image paths that lead out of image_root, by .. or by links: for a table that someone else has made."""
    validation_fraction: OpenUnitInterval = 0.1
    """Share of the training rows cut off for validation, by whole groups, with the labels' proportions kept."""
    group: str | None = None
    """Column, such as the patient, whose values must not stand on both sides of the cut. Images never do."""
    folds: NonNegativeInt = 0
    """Deal the training rows into this many folds, as validation_fraction cuts them, and hold one out as test rows."""
    fold: NonNegativeInt = 0
    """Which fold is held out, from 0; python -m app kfold trains with each."""
    normalize_labels: bool = False
    """Fold case and surplus spaces of labels."""
    top_k_labels: PositiveInt | None = None
    """Keep the K most frequent labels of the training rows; others cannot be answered and count as wrong."""
    slice_by: list[str] = field(default_factory=list)
    """Columns by whose values held-out accuracy is told apart, such as the type of question; text_tokens tells apart by
    the length of the text, text_cut by whether it is longer than the model reads."""
    allow_missing: bool = False
    """Let rows without an image or without a text through, with the learned token in the place of the missing one."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do about images that cannot be read: stop with their names, or skip their rows and name them."""
    max_texts_per_image: PositiveInt = 64
    """Texts of one image that go into a batch together."""
    max_pixels: PositiveInt = 100_000_000
    """Images with more pixels are refused before they are decoded."""
    value_range: Literal["auto"] | tuple[float, float] = "auto"
    """Values of images of more than 8 bits that become black and white, as [LOW, HIGH]; others become the nearer one.
    auto is the usual range (8, 10, 12, 14 or 16 bits, 0 to 1, -1 to 1) that holds those of all training images, or else
    from their lowest to their highest."""
    streaming: bool = False
    """Read the training rows as a stream, for data that is remote or larger than the disk."""
    shuffle_buffer: PositiveInt = 2000
    """Rows of a stream that are shuffled at a time."""
    num_workers: NonNegativeInt = 2
    """Processes that decode images beside the training process."""
