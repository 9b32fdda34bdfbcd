"""The training data of a run by content, not by name: the rows of all splits and the initial encoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from accelerate.utils import set_seed
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from app.atomic_write import replacing
from app.run_paths import RECORD, Place, places_of, read_places
from app.settings import Settings
from app.training.feature_cache import update_with_weights
from app.training.trainer import build
from data import PreparedData, Rows, prepare_data
from data.errors import UserError
from data.groups import group_names
from data.hashing import sha256
from data.messages import quote
from models import ImageTextClassifier, ImageTextProcessor
from models.audio import SCRATCH
from models.build import image_is_pretrained, text_is_pretrained
from models.contexts import audio_encoders, picture_encoders
from models.custom_encoder import split_name
from models.picture_encoder import VGG16, PictureEncoder, is_pretrained
from models.settings import ModelSettings

SPLITS = ("train", "validation", "test")
PARTS = ("image", "text", "label", "weight", "group")
"""Columns of a row. Texts and groups are stored as hashes, images by the hash of their bytes."""
SHOWN = 40
"""Maximum number of characters of a label in a message."""


@dataclass
class Provenance:
    """The content that a run was trained on, stored as ``provenance.parquet`` in its folder.

    Attributes:
        rows: split → a table with ``row``, the number in the source, and `PARTS`, in the order of the rows.
        contents: ``classes`` (names in order), ``tokenizer``, ``text encoder`` and ``image encoder`` (hashes of
            weights, configuration and code, or the name of the architecture if it is initialized at random), or instead
            of the encoders the ``classifier that it started from``.
        places: the paths of its files, see `app.run_paths`.
    """

    rows: dict[str, pa.Table]
    contents: dict[str, list[str] | str]
    places: dict[str, Place]

    @classmethod
    def of(
        cls, settings: Settings, data: PreparedData, model: ImageTextClassifier, processor: ImageTextProcessor
    ) -> Provenance:
        """The provenance of prepared data, and of a model and a processor that are not trained yet."""
        rows = {split: row_table(rows, settings.data.group) for split, rows in data.splits.items()}
        contents: dict[str, list[str] | str] = {
            "classes": data.label_names,
            "tokenizer": tokenizer_content(processor.tokenizer),
        }
        if settings.model.init:
            statistics = processor.image_processor.image_mean, processor.image_processor.image_std
            contents["classifier that it started from"] = pretrained_content(model, None, None, statistics)
        else:
            contents["text encoder"] = text_content(settings.model, model)
            contents["image encoder"] = image_content(settings.model, model, processor)
            if audio := audio_encoders(model):
                is_scratch = settings.model.audio_encoder == SCRATCH
                contents["audio encoder"] = SCRATCH if is_scratch else pretrained_content(audio[0])
            for name, encoder in picture_encoders(model).items():
                contents[f"image encoder of {name}"] = own_content(settings, name, encoder)
        return cls(rows, contents, places_of(settings))

    def save(self, run_dir: Path) -> None:
        """Write the record into the run folder."""
        tables = [table.append_column("split", pa.array([split] * len(table))) for split, table in self.rows.items()]
        places = {name: astuple(place) for name, place in self.places.items()}
        metadata = {"contents": json.dumps(self.contents), "places": json.dumps(places)}
        table = pa.concat_tables(tables).replace_schema_metadata(metadata)
        with replacing(run_dir / RECORD) as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)

    @classmethod
    def load(cls, run_dir: Path) -> Provenance | None:
        """The record of a run, or ``None`` if an earlier version trained it and wrote none.

        Raises:
            UserError: the record is damaged.
        """
        path = run_dir / RECORD
        if not path.is_file():
            return None
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read()
            contents = json.loads(table.schema.metadata[b"contents"])
            rows = {split: table.filter(pc.equal(table["split"], split)) for split in SPLITS}
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, the record of the training data, is damaged ({error}): delete it to resume without the check "
                "that the data are the same."
            ) from error
        return cls({split: part for split, part in rows.items() if len(part)}, contents, read_places(run_dir))

    def changes(self, now: Provenance) -> list[str]:
        """Phrases that describe all differences; empty if there are none."""
        rows = [row_changes(split, self.rows.get(split), now.rows.get(split)) for split in SPLITS]
        contents = [content_change(name, before, now.contents.get(name, "")) for name, before in self.contents.items()]
        return [change for change in (*rows, *contents) if change]


def row_table(rows: Rows, group: str | None) -> pa.Table:
    """The rows in order; a missing image is ``""``, a missing text or group is 0."""
    grouped = group is not None and not rows.is_stream and group in rows.table.column_names
    groups: Iterable[str | None] = group_names(rows, group) if group and grouped else [None] * len(rows)
    contexts = {
        f"context {name}": pa.array((key or "" for key in keys), pa.large_string())
        for name, keys in rows.context_keys.items()
    }
    return pa.table(
        {
            "row": rows.numbers,
            "image": pa.array((key or "" for key in rows.image_keys), pa.large_string()),
            "text": pa.array(map(digest, rows.texts), pa.int64()),
            "label": pa.array(iter(rows.labels), pa.large_string()),
            "weight": np.ones(len(rows)) if rows.weights is None else rows.weights,
            "group": pa.array(map(digest, groups), pa.int64()),
        }
        | contexts
    )


def digest(value: str | None) -> int:
    if value is None:
        return 0
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little", signed=True)


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the vocabulary, merges and rules of a tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    state = {
        name: value for name, value in rules.items() if name not in ("truncation", "padding")
    }  # state of the last call
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def text_content(settings: ModelSettings, model: ImageTextClassifier) -> str:
    """The initial content of the text encoder."""
    if model.text_encoder is None:
        return "none"
    if text_is_pretrained(settings):
        return pretrained_content(model.text_encoder, settings.text_encoder, settings.text_revision)
    if model.config.custom_text_encoder:
        file, class_name = split_name(model.config.custom_text_encoder)
        return f"{class_name} {sha256(Path(file))}"
    return settings.text_encoder


def image_content(settings: ModelSettings, model: ImageTextClassifier, processor: ImageTextProcessor) -> str:
    """The initial content of the image encoder, with the normalization of its images."""
    if not image_is_pretrained(settings):
        return settings.image_encoder
    if settings.image_encoder == VGG16:
        return pretrained_content(model.image_encoder)
    statistics = processor.image_processor.image_mean, processor.image_processor.image_std
    return pretrained_content(model.image_encoder, settings.image_encoder, settings.image_revision, statistics)


def own_content(settings: Settings, context: str, encoder: PictureEncoder) -> str:
    """The initial content of the image encoder of a context, with its normalization."""
    name = next(one.encoder for one in settings.data.contexts() if one.name == context)
    assert name is not None
    normal = encoder.scale, encoder.shift
    return pretrained_content(encoder, None, None, normal) if is_pretrained(name, settings.model) else name


def pretrained_content(encoder: nn.Module, name: str | None = None, revision: str | None = None, *more) -> str:
    """Hash of the weights, the configuration file and ``more``."""
    config = PreTrainedConfig.get_config_dict(name, revision=revision or "main")[0] if name else {}
    config = {key: value for key, value in config.items() if key != "_commit_hash"}
    found = hashlib.sha256(json.dumps([config, more], sort_keys=True).encode())
    update_with_weights(found, encoder)
    return found.hexdigest()


def content_change(name: str, before: list[str] | str, now: list[str] | str) -> str | None:
    """A phrase that describes how classes, tokenizer or an encoder differ; ``None`` if they do not."""
    if before == now:
        return None
    if not isinstance(before, list):
        return f"the {name} has changed"
    gone, new = (
        ", ".join(quote(name, SHOWN) for name in sorted({*one} - {*other})[:5])
        for one, other in ((before, now), (now, before))
    )
    told = [f"{word} {names}" for word, names in (("gone", gone), ("new", new)) if names] or ["in another order"]
    return f"classes: {len(before):,} before, {len(now):,} now ({'; '.join(told)})"


def row_changes(split: str, before: pa.Table | None, now: pa.Table | None, without: Collection[str] = ()) -> str | None:
    """A phrase that describes how the rows of a split differ, with the first difference; ``None`` if they do not.

    Args:
        without: columns to ignore.
    """
    sizes = [0 if table is None else len(table) for table in (before, now)]
    counted = f"{split}: {sizes[0]:,} rows before, {sizes[1]:,} now"
    if before is None or now is None:
        return counted if before is not now else None
    common = min(sizes)
    differs = {
        part: pc.not_equal(before[part][:common], now[part][:common]).to_numpy()
        for part in (*PARTS, *(name for name in now.column_names if name.startswith("context ")))
        if part not in without and part in before.column_names
    }
    other = np.flatnonzero(np.logical_or.reduce(list(differs.values())))
    if not len(other):
        return f"{counted}, the first {common:,} are the same" if sizes[0] != sizes[1] else None
    first = int(other[0])
    told = ", ".join(describe_part(part, before, now, first) for part in differs if differs[part][first])
    number = f", {len(other):,} differ" if sizes[0] == sizes[1] else ""
    return f"{counted}{number}; the first difference is in row {now['row'][first].as_py():,} ({told})"


def describe_part(part: str, before: pa.Table, now: pa.Table, place: int) -> str:
    """How one column of a row differs."""
    if part not in ("label", "weight"):
        return f"{part} changed"
    old, new = (table[part][place].as_py() for table in (before, now))
    return f"label {quote(old, SHOWN)} → {quote(new, SHOWN)}" if part == "label" else f"weight {old:g} → {new:g}"


def changed_rows(run_dir: Path, split: str, rows: Rows, group: str | None, without: Collection[str]) -> str | None:
    """How the rows of a split differ from those of the training (`row_changes`); ``None`` if they do not.

    Prints a sentence if the run has no record.
    """
    if not (run_dir / "config.yaml").is_file():
        return None
    before = Provenance.load(run_dir)
    if before is None:
        print(no_record(run_dir))
        return None
    return row_changes(split, before.rows.get(split), row_table(rows, group), without)


def trained_images(run_dir: Path) -> set[str]:
    """Hashes of the images that a run was trained on; empty if it has no record.

    Raises:
        UserError: the record is damaged.
    """
    before = Provenance.load(run_dir)
    if before is None or "train" not in before.rows:
        return set()
    return set(before.rows["train"]["image"].to_pylist()) - {""}


def no_record(run_dir: Path) -> str:
    """The message about a run that an earlier version trained."""
    return (
        f"{run_dir} has no record of its training data ({RECORD}), because an earlier version trained it: there is no "
        "check that the data are the same."
    )


def read_provenance(settings: Settings) -> Provenance:
    """The provenance of a run with these settings, from the data as they are now."""
    data = prepare_data(settings.data, settings.train.seed)
    set_seed(settings.train.seed)  # new classes of a classifier that it started from are random
    return Provenance.of(settings, data, *build(settings, data))
