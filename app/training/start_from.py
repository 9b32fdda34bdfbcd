"""Start a training from a trained classifier: encoders, tokenizer, preprocessing, architecture, shared classes."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from app.inference.load import find_model, load_model
from app.settings import Settings
from data.errors import UserError
from models import ImageTextClassifier, ImageTextConfig, ImageTextProcessor
from models.configuration import FITTED
from models.custom_encoder import find_file, split_name
from models.settings import Architecture, ModelSettings

FREE = {"init", "fusion_dropout", "classifier_dropout", "modality_dropout"}
"""Settings of the model that have no weights and may differ from the classifier that a training starts from."""

CLASSIFIER = ("classifier.output", "classifier.direct_image", "classifier.direct_context")
OUTPUT_LAYERS = (*CLASSIFIER, "probe.image", "probe.text")
"""Layers of the classifiers with a row for each class."""


def adopt_architecture(settings: Settings, given: Collection[str] = ()) -> Settings:
    """The settings with the architecture of the classifier that ``--model.init`` names; unchanged without one.

    Args:
        given: options that the command line names, such as ``model.image_size``: they may contradict the classifier
            even if their value is the default.

    Raises:
        UserError: there is no classifier, or a setting contradicts it.
    """
    init = settings.model.init
    if not init:
        return settings
    if own := [context.name for context in settings.data.contexts() if context.encoder]:
        raise UserError(
            f"The encoders of the contexts come from --model.init {init}: leave out the encoder of {', '.join(own)}, "
            "or leave out --model.init."
        )
    folder = find_model(init)
    if Path(folder).is_dir() and not (Path(folder) / "model.safetensors").is_file():
        raise UserError(f"--model.init {init} is an ONNX model, which cannot be trained: name the run it comes from.")
    config = ImageTextConfig.from_pretrained(folder)
    if config.context_hidden_size:
        raise UserError(f"--model.init {init} is a classifier of context features; training needs a text encoder.")
    processor = ImageTextProcessor.from_pretrained(folder)
    reading = {"max_text_length": processor.tokenizer.model_max_length, "fit": processor.fit}
    there = {f.name: getattr(config, f.name) for f in fields(Architecture)} | reading
    there["levels"] = list(there["levels"])
    default = ModelSettings()
    for name in (f.name for f in fields(ModelSettings)):
        value = getattr(settings.model, name)
        is_default = value == getattr(default, name) and f"model.{name}" not in given
        if name in FREE or is_default or value == there.get(name, object()):
            continue
        found = f"is {there[name]!r} there" if name in there else "comes from there"
        raise UserError(
            f"--model.{name} {value!r} contradicts --model.init {init}: it {found}. Leave it out, or leave out "
            "--model.init."
        )
    adopted = {name: value for name, value in there.items() if name not in FREE}
    return replace(settings, model=replace(settings.model, **adopted))


def build_from(
    settings: ModelSettings, label_names: list[str], **reading: Any
) -> tuple[ImageTextClassifier, ImageTextProcessor]:
    """A classifier with the weights of ``settings.init`` and new labels, and its processor.

    Classes that both have keep their rows of the output layer; other classes start from random rows. The code of a
    custom text encoder runs if it is in a local folder.

    Args:
        label_names: names of the C classes, in the order of the logits.
        reading: how rows are read (``columns``, ``label_type`` … of `ImageTextConfig`).

    Raises:
        UserError: see `app.inference.load.load_model`.
    """
    assert settings.init
    source, processor = load_model(settings.init, trust_custom_encoder=Path(settings.init).exists())
    config = copy.deepcopy(source.config)
    if config.custom_text_encoder:
        config.custom_text_encoder = f"{find_file(config).resolve()}:{split_name(config.custom_text_encoder)[1]}"
    check_contexts(settings.init, source.config, reading)
    check_frames(settings.init, source.config, reading.get("frames", source.config.frames))
    before = source.config.label2id
    labels = {"id2label": dict(enumerate(label_names)), "label2id": {name: c for c, name in enumerate(label_names)}}
    new = {name: getattr(settings, name) for name in FREE - {"init"}}
    for name, value in (labels | FITTED | new | reading).items():
        setattr(config, name, value)
    model = ImageTextClassifier(config, trust_custom_encoder=True)
    state, own = source.state_dict(), model.state_dict()
    for name in (f"{layer}.{part}" for layer in CLASSIFIER for part in ("weight", "bias")):
        if name in state:
            state[name] = state[name] * source.config.classifier_scale
    shared = [name for name in label_names if name in before]
    for name in (f"{layer}.{part}" for layer in OUTPUT_LAYERS for part in ("weight", "bias")):
        if name not in own:
            continue
        rows = own[name].clone()
        rows[[label_names.index(label) for label in shared]] = state[name][[before[label] for label in shared]]
        state[name] = rows
    model.load_state_dict(state)
    print(describe_start(settings.init, len(shared), label_names), flush=True)
    return model, processor


def check_frames(init: str, config: ImageTextConfig, frames: int) -> None:
    """Check that a training reads as many frames of each video as the classifier that it starts from.

    Raises:
        UserError: another number.
    """
    if frames != config.frames:
        raise UserError(
            f"--data.frames {frames} contradicts --model.init {init}, which sees {config.frames} "
            f"{'frame' if config.frames == 1 else 'frames'}: give --data.frames {config.frames}."
        )


def check_contexts(init: str, config: ImageTextConfig, reading: dict[str, Any]) -> None:
    """Let a training have the contexts of the classifier that it starts from, with what the rows of that fixed.

    Raises:
        UserError: other contexts.
    """
    given = reading.pop("contexts", None) or ()
    there = [(spec["name"], spec["kind"], list(spec["columns"])) for spec in config.contexts or ()]
    here = [(spec["name"], spec["kind"], list(spec["columns"])) for spec in given]
    has_text = reading.pop("has_text", True)
    if there != here or has_text != config.has_text:
        parts = [
            *(["a text"] if config.has_text else []),
            *(f"{name} ({kind}: {', '.join(columns)})" for name, kind, columns in there),
        ]
        raise UserError(
            f"--model.init {init} has the contexts {', '.join(parts) or 'none'}, and this training has others: name "
            "the same, --context.NAME KIND, or leave out --model.init."
        )


def describe_start(init: str, shared: int, label_names: list[str]) -> str:
    """What a training starts from, in a line."""
    classes = f"{shared:,} of {len(label_names):,} classes are known there"
    rest = "" if shared == len(label_names) else "; the others start from random weights"
    return f"  starting from {init}: {classes}{rest}"
