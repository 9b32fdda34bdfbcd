"""Settings of the data section of a configuration."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveInt

from data.errors import UserError
from data.paths import expand_home
from data.videos import FrameNumber

TEXT_SLICES = ("text_tokens", "text_cut")
"""Values of ``slice_by`` that are not columns: the text's number of tokens, and whether the model truncates it."""
ContextKind = Literal["text", "image", "audio", "features"]
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
"""Names of contexts: parts of the model have them."""


@dataclass
class ContextSettings:
    """A context: an input that the image attends to."""

    kind: ContextKind
    """text; image (a second picture); audio (a WAV, FLAC, OGG or MP3 file, or a
    video, whose sound is taken); or features (columns of numbers or
    categories, such as age and sex; or a column with vectors, sequences of vectors, or .npy files of them)."""
    columns: list[str] = field(default_factory=list)
    """Columns of the table; by default the one with the name of the context. A text may be a template."""
    encoder: str | None = field(default=None, kw_only=True)
    """Image encoder of a picture's own, in training: what --model.image_encoder accepts, a HuggingFace Hub id, a local
    folder, random weights (a backbone type of transformers, or scratch), or vgg16 with --model.image_weights. By
    default a picture passes the image encoder of the main one."""


@dataclass
class DataSettings:
    """Which rows to read, and how they become images, texts and labels."""

    train: str | None = None
    """Training rows: a .csv, .tsv, .json, .jsonl or .parquet file, a folder saved by datasets, an image folder with a
    metadata file, a table by its URL (s3://bucket/train.parquet; see docs/tables.md), a Hub id (owner/name or
    owner/name:split), or built-in data: shapes:N, pairs:N, cards:N,
    tones:N or clips:N for N images."""
    validation: str | None = None
    """Validation rows, used to choose the best model. Split from the training rows by default."""
    test: str | None = None
    """Test rows, used once, after training."""
    image: str = "image"
    """Column with the path of the image (relative to image_root) or the image itself."""
    frames: FrameNumber = 1
    """Number of frames, evenly spaced in time, that the model sees of each video in the image column: a video file, an
    animated picture or a folder of pictures. A single picture is taken for a sheet of frames. 1: the column holds
    pictures. See docs/context.md."""
    text: str = "text"
    """Column with the text, or a template of several columns, such as "{question} {report}". Write {{ and }} for braces
    in the text. Empty: no text; in training, --model.fusion none then classifies the image alone."""
    context: dict[str, str | ContextSettings] = field(default_factory=dict)
    """Named contexts in place of the one text, each a kind or its settings; in training: --context.question text
    --context.prior image --context.patient '{kind: features, columns: [age, sex]}'. See docs/context.md."""
    label: str = "label"
    """Column with the label: a string, a number or a boolean. See docs/tables.md."""
    label_type: Literal["single", "multi", "annotators"] = "single"
    """single: one class a row. multi: any number of classes, as "a|b" or a list, with "|" or [] for none of them.
    annotators: the answers of several people, as "yes|yes|no" or a list."""
    label_separator: str = "|"
    """Separator between the names in one label."""
    weight: str | None = None
    """Column with the weight of each row in the loss and in metrics, at least 0. Rows with weight 0 are left out. All
    weights are 1 by default, and in validation and test files without this column."""
    image_root: str | None = None
    """Folder of relative image paths. The folder of the table by default."""
    confine_images: bool = False
    """Refuse image paths outside image_root, including those that leave it by .. or by links. Use it for tables from
    others."""
    validation_fraction: OpenUnitInterval = 0.1
    """Share of the training rows that becomes the validation rows if none are given. Groups stay together, and the
    split is stratified by label."""
    group: str | None = None
    """Column, such as the patient, whose rows with the same value stay in the same split. Rows with the same image
    always do."""
    folds: NonNegativeInt = 0
    """Number of cross-validation folds of the training rows. One of them becomes the test rows. 0 turns it off."""
    fold: NonNegativeInt = 0
    """Index of the fold that becomes the test rows, from 0. `python -m app kfold` trains once for each fold."""
    normalize_labels: bool = False
    """Ignore upper and lower case and extra spaces in labels."""
    top_k_labels: PositiveInt | None = None
    """Only learn the K most frequent labels of the training rows. In validation and test rows, other labels
    count as wrong."""
    exclude: str | None = None
    """Table whose images, and images nearly equal to them, are left out of train and validation: the held-out rows of
    another data set that a model from this training will be tuned to. They are read from the column image."""
    shots: NonNegativeInt = 0
    """Number of training rows of each class, drawn by the seed (few-shot). 0 uses all rows."""
    pool: str | None = None
    """Column, such as the case, whose rows share one answer. Figures are then also given by case, from the mean of the
    probabilities of its rows. All rows of a case must have the same label."""
    slice_by: list[str] = field(default_factory=list)
    """Columns for which metrics are also reported by value, such as the type of question. text_tokens reports by length
    of the text, text_cut by whether the model truncates it."""
    allow_missing: bool = False
    """Accept rows without an image or without a text. A learned token replaces the missing input."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do with images that cannot be read. stop: raise an error that lists them. skip: leave out their rows and
    list them."""
    max_texts_per_image: PositiveInt = 64
    """Largest number of texts of one image that are kept together in a batch."""
    max_pixels: PositiveInt = 100_000_000
    """Refuse images with more pixels, before they are decoded."""
    value_range: Literal["auto"] | tuple[float, float] = "auto"
    """Pixel values that become black and white in images of more than 8 bits, as [LOW, HIGH]. Values outside are
    clipped. auto: the narrowest usual range (8, 10, 12, 14 or 16 bits, 0 to 1, -1 to 1) that contains all training
    images, or their lowest and highest value."""
    streaming: bool = False
    """Read the training rows as a stream, for remote data or data larger than the disk."""
    shuffle_buffer: PositiveInt = 2000
    """Number of rows in the shuffle buffer of a stream."""
    num_workers: NonNegativeInt = 2
    """Worker processes that decode images."""

    def __post_init__(self) -> None:
        if not self.label_separator:
            raise UserError(
                "data.label_separator is empty; expected the characters between the names in one label, such as '|'. "
                "For one class a row, set --data.label_type single in training."
            )
        contexts = self.contexts()
        if texts := [context for context in contexts if context.kind == "text"]:
            self.text = texts[0].columns[0]
        elif contexts:
            self.text = ""

    @property
    def has_text(self) -> bool:
        """Whether rows have a text."""
        return bool(self.text)

    @property
    def has_audio(self) -> bool:
        """Whether rows have a sound."""
        return any(context.kind == "audio" for context in self.contexts())

    @property
    def image_encoders(self) -> list[str]:
        """The image encoders that contexts have of their own."""
        return [context.encoder for context in self.contexts() if context.encoder]

    @property
    def same_pictures(self) -> list[str]:
        """The contexts whose pictures are the main ones."""
        return [c.name for c in self.contexts() if c.kind == "image" and c.columns == [self.image]]

    @property
    def encoders(self) -> tuple[bool, bool, list[str]]:
        """What `models.build.fetch_pretrained` must know: `has_text`, `has_audio` and `image_encoders`."""
        return self.has_text, self.has_audio, self.image_encoders

    def contexts(self) -> list["NamedContext"]:
        """The named contexts in order.

        Raises:
            UserError: a name or a kind that is not allowed, or columns that do not fit the kind.
        """
        found = [NamedContext.of(name, given) for name, given in self.context.items()]
        first_text = next((context.name for context in found if context.kind == "text"), None)
        if "text" in self.context and first_text != "text":
            raise UserError("A context called 'text' is the first of the kind text; give others another name.")
        return found

    def further_contexts(self) -> list["NamedContext"]:
        """The contexts beside the text: all but the first of the kind text."""
        contexts = self.contexts()
        first = next((context for context in contexts if context.kind == "text"), None)
        return [context for context in contexts if context is not first]


@dataclass
class NamedContext(ContextSettings):
    """A context with its name."""

    name: str = ""

    @classmethod
    def of(cls, name: str, given: str | ContextSettings) -> "NamedContext":
        """A context from the settings; see `DataSettings.contexts`."""
        from torch import nn  # slow to import; options are listed without it

        settings = ContextSettings(given) if isinstance(given, str) else given  # type: ignore[arg-type]
        if not NAME.fullmatch(name) or name in RESERVED or hasattr(nn.ModuleDict(), name):
            raise UserError(
                f"A context cannot be called {name!r}: names have letters, digits and _, start with a letter, and are "
                f"none of {', '.join(RESERVED)}, nor attributes of torch.nn.ModuleDict, such as values or type."
            )
        if settings.kind not in get_args(ContextKind):
            raise UserError(
                f"The context {name} is of the kind {settings.kind!r}; kinds are {', '.join(get_args(ContextKind))}."
            )
        columns = list(settings.columns) or [name]
        if settings.kind != "features" and len(columns) > 1:
            instead = (
                " Several columns of text are a template: '{question} {report}'." if settings.kind == "text" else ""
            )
            raise UserError(f"The context {name} has one column, got {', '.join(columns)}.{instead}")
        if settings.encoder and settings.kind != "image":
            raise UserError(
                f"The context {name} is of the kind {settings.kind!r}, and has an encoder: only the kind image has one "
                "of its own."
            )
        return cls(settings.kind, columns, name, encoder=settings.encoder and expand_home(settings.encoder))

    @classmethod
    def of_spec(cls, spec: Mapping[str, Any]) -> "NamedContext":
        """The context of an entry of a model's ``contexts``."""
        kind: ContextKind = "features" if spec["kind"] in ("vectors", "columns") else spec["kind"]
        return cls(kind, list(spec["columns"]), name=spec["name"])


RESERVED = ("image", "label", "all", "both")
"""Names that contexts cannot have."""
