"""What a run was trained on, by content and not by name: every row of every split, and what the model began with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from app.hashing import sha256
from app.run_paths import RECORD, Place, places_of, read_places
from app.settings import Settings
from app.training.feature_cache import update_with_weights
from app.training.trainer import build
from data import PreparedData, Rows, prepare_data
from data.errors import UserError
from data.prepare import group_names
from models import ImageTextClassifier, ImageTextProcessor
from models.build import VGG16, image_is_pretrained, text_is_pretrained
from models.custom_encoder import split_name
from models.settings import ModelSettings

SPLITS = ("train", "validation", "test")
PARTS = ("image", "text", "label", "weight", "group")
"""What a row consists of. Texts and groups are kept as hashes, images by the key of their bytes."""
SHOWN = 40
"""Characters of a label that a message shows."""


@dataclass
class Provenance:
    """The content that a run was trained on, kept as ``provenance.parquet`` in its folder.

    Attributes:
        rows: split → a table with ``row``, the number in the source, and `PARTS`, a line a row in order.
        contents: ``classes`` (their names in order), ``tokenizer``, ``text encoder`` and ``image encoder`` (hashes of
            weights, configuration and code, or how it is made where it begins at random).
        places: where its files lay, see `app.run_paths`.
    """

    rows: dict[str, pa.Table]
    contents: dict[str, list[str] | str]
    places: dict[str, Place]

    @classmethod
    def of(
        cls, settings: Settings, data: PreparedData, model: ImageTextClassifier, processor: ImageTextProcessor
    ) -> Provenance:
        """Of rows that were read, and of a model and a processor that were built and not yet trained."""
        rows = {split: row_table(rows, settings.data.group) for split, rows in data.splits.items()}
        contents: dict[str, list[str] | str] = {
            "classes": data.label_names,
            "tokenizer": tokenizer_content(processor.tokenizer),
            "text encoder": text_content(settings.model, model),
            "image encoder": image_content(settings.model, model, processor),
        }
        return cls(rows, contents, places_of(settings))

    def save(self, run_dir: Path) -> None:
        """Write it into the run folder; one that is there stays until the new one is whole."""
        tables = [table.append_column("split", pa.array([split] * len(table))) for split, table in self.rows.items()]
        places = {name: astuple(place) for name, place in self.places.items()}
        metadata = {"contents": json.dumps(self.contents), "places": json.dumps(places)}
        new = run_dir / f"{RECORD}.writing"
        table = pa.concat_tables(tables).replace_schema_metadata(metadata)
        pq.write_table(table, new, compression="zstd", write_page_checksum=True)
        os.replace(new, run_dir / RECORD)

    @classmethod
    def load(cls, run_dir: Path) -> Provenance | None:
        """That of a run; ``None`` where an earlier version, which kept none, trained it.

        Raises:
            UserError: it is damaged.
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
                f"{path}, the record of what the run was trained on, is damaged ({error}): delete it to go on without "
                "the check that the data are the same."
            ) from error
        return cls({split: part for split, part in rows.items() if len(part)}, contents, read_places(run_dir))

    def changes(self, now: Provenance) -> list[str]:
        """What is not the same now, in words; nothing where all is."""
        rows = [row_changes(split, self.rows.get(split), now.rows.get(split)) for split in SPLITS]
        contents = [content_change(name, before, now.contents[name]) for name, before in self.contents.items()]
        return [change for change in (*rows, *contents) if change]


def row_table(rows: Rows, group: str | None) -> pa.Table:
    """The rows in order; a missing image is ``""``, a missing text or group 0."""
    grouped = group is not None and not rows.is_stream and group in rows.table.column_names
    groups: Iterable[str | None] = group_names(rows, group) if group and grouped else [None] * len(rows)
    return pa.table(
        {
            "row": rows.numbers,
            "image": pa.array((key or "" for key in rows.image_keys), pa.large_string()),
            "text": pa.array(map(digest, rows.texts), pa.int64()),
            "label": pa.array(iter(rows.labels), pa.large_string()),
            "weight": np.ones(len(rows)) if rows.weights is None else rows.weights,
            "group": pa.array(map(digest, groups), pa.int64()),
        }
    )


def digest(value: str | None) -> int:
    if value is None:
        return 0
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little", signed=True)


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of vocabulary, merges and rules."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    state = {name: value for name, value in rules.items() if name not in ("truncation", "padding")}  # of the last call
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def text_content(settings: ModelSettings, model: ImageTextClassifier) -> str:
    """What the text encoder begins with."""
    if text_is_pretrained(settings):
        assert model.text_encoder is not None
        return pretrained_content(model.text_encoder, settings.text_encoder, settings.text_revision)
    if model.config.custom_text_encoder:
        file, class_name = split_name(model.config.custom_text_encoder)
        return f"{class_name} {sha256(Path(file))}"
    return settings.text_encoder


def image_content(settings: ModelSettings, model: ImageTextClassifier, processor: ImageTextProcessor) -> str:
    """What the image encoder begins with, and how images are normalised for it."""
    if not image_is_pretrained(settings):
        return settings.image_encoder
    if settings.image_encoder == VGG16:
        return pretrained_content(model.image_encoder)
    statistics = processor.image_processor.image_mean, processor.image_processor.image_std
    return pretrained_content(model.image_encoder, settings.image_encoder, settings.image_revision, statistics)


def pretrained_content(encoder: nn.Module, name: str | None = None, revision: str | None = None, *more) -> str:
    """Hash of weights, of the configuration as its file has it, and of what else is named."""
    config = PreTrainedConfig.get_config_dict(name, revision=revision or "main")[0] if name else {}
    config = {key: value for key, value in config.items() if key != "_commit_hash"}
    found = hashlib.sha256(json.dumps([config, more], sort_keys=True).encode())
    update_with_weights(found, encoder)
    return found.hexdigest()


def content_change(name: str, before: list[str] | str, now: list[str] | str) -> str | None:
    """How classes, tokenizer or an encoder differ, in words."""
    if before == now:
        return None
    if not isinstance(before, list):
        return f"the {name} is another"
    gone, new = (
        ", ".join(map(shorten, sorted({*one} - {*other})[:5])) for one, other in ((before, now), (now, before))
    )
    told = [f"{word} {names}" for word, names in (("gone", gone), ("new", new)) if names] or ["in another order"]
    return f"classes: {len(before):,} before, {len(now):,} now ({'; '.join(told)})"


def row_changes(split: str, before: pa.Table | None, now: pa.Table | None, without: Collection[str] = ()) -> str | None:
    """How the rows of a split differ, in words, with the first that does; ``None`` where they do not.

    Args:
        without: parts that do not count.
    """
    sizes = [0 if table is None else len(table) for table in (before, now)]
    counted = f"{split}: {sizes[0]:,} rows before, {sizes[1]:,} now"
    if before is None or now is None:
        return counted if before is not now else None
    common = min(sizes)
    differs = {
        part: pc.not_equal(before[part][:common], now[part][:common]).to_numpy()
        for part in PARTS
        if part not in without
    }
    other = np.flatnonzero(np.logical_or.reduce(list(differs.values())))
    if not len(other):
        return f"{counted}, of which the first {common:,} are the same" if sizes[0] != sizes[1] else None
    first = int(other[0])
    told = ", ".join(describe_part(part, before, now, first) for part in differs if differs[part][first])
    number = f", {len(other):,} of which differ" if sizes[0] == sizes[1] else ""
    return f"{counted}{number}; the first that differs is row {now['row'][first].as_py():,} ({told})"


def describe_part(part: str, before: pa.Table, now: pa.Table, place: int) -> str:
    """How one part of a row differs."""
    if part not in ("label", "weight"):
        return f"another {part}"
    old, new = (table[part][place].as_py() for table in (before, now))
    return f"label {shorten(old)} → {shorten(new)}" if part == "label" else f"weight {old:g} → {new:g}"


def shorten(label: str) -> str:
    return repr(label if len(label) <= SHOWN else label[: SHOWN - 1] + "…")


def changed_rows(run_dir: Path, split: str, rows: Rows, group: str | None, without: Collection[str]) -> str | None:
    """How the rows of a split differ from those of the training, in words (`row_changes`); ``None`` where they do not.

    Prints a sentence where the run has no record.
    """
    if not (run_dir / "config.yaml").is_file():
        return None
    before = Provenance.load(run_dir)
    if before is None:
        print(no_record(run_dir))
        return None
    return row_changes(split, before.rows.get(split), row_table(rows, group), without)


def no_record(run_dir: Path) -> str:
    """What is said of a run that an earlier version trained."""
    return (
        f"{run_dir} has no record of what it was trained on ({RECORD}; an earlier version did not keep one): whether "
        "these data are the same is not checked."
    )


def read_provenance(settings: Settings) -> Provenance:
    """What a run of these settings would be trained on now."""
    data = prepare_data(settings.data, settings.train.seed)
    return Provenance.of(settings, data, *build(settings, data))
