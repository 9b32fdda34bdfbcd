"""Build a classifier and its processor from model settings, label names and training texts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, ViTImageProcessor

from data.errors import UserError
from models.audio import SCRATCH, audio_encoder, fetch_audio_encoder
from models.backbone import BackboneEncoder, backbone_config, backbone_statistics, fetch_backbone, is_backbone_type
from models.classifier import ImageTextClassifier
from models.configuration import ImageTextConfig
from models.contexts import audio_encoders, picture_encoders
from models.custom_encoder import custom_tokenizer, load_custom_class, split_name
from models.image_encoder import ImageEncoder, build_image_encoder
from models.image_weights import imagenet_state, load_image_weights
from models.picture_encoder import INSTEAD, VGG16, is_pretrained, picture_encoder
from models.processor import IMAGENET_MEAN, IMAGENET_STD, ImageTextProcessor, build_image_processor, build_processor
from models.settings import Architecture, ModelSettings
from models.text_contract import check_custom_encoder, check_pretrained_encoder
from models.text_encoder import (
    fetch_text_encoder,
    pretrained_text_config,
    pretrained_tokenizer,
    scratch_text_config,
    train_tokenizer,
)

NO_TEXT = "no text"
"""What the tokenizer of a model without a text is trained on; nothing uses it."""


def build_model(
    settings: ModelSettings, label_names: list[str], texts: Iterable[str], **reading
) -> tuple[ImageTextClassifier, ImageTextProcessor]:
    """Build a classifier with its initial weights, and its processor.

    Args:
        settings: architecture, encoders and initial weights.
        label_names: names of the C classes, in the order of the logits.
        texts: training texts, used if a tokenizer is trained.
        reading: how rows are read (``columns``, ``label_type`` … of `ImageTextConfig`), saved with the model.

    Raises:
        UserError: settings that contradict each other, an encoder or weights that cannot be loaded, or a custom encoder
            that breaks its contract.
    """
    own = {spec["name"]: spec["encoder"] for spec in reading.get("contexts") or () if "encoder" in spec}
    if VGG16 not in (settings.image_encoder, *own.values()) and settings.image_weights not in ("none", "imagenet"):
        raise UserError(
            "--model.image_weights applies to VGG16 only. Other image encoders are loaded with their weights: "
            "--model.image_encoder HUB_ID_OR_FOLDER."
        )
    has_text = reading.get("has_text", True)
    tokenizer, text = build_text(settings, texts) if has_text else (train_tokenizer([NO_TEXT]), {})
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }
    encoders = text | {"image_config": image_config(settings)}
    statistics = image_statistics(settings)
    reading["contexts"] = with_encoders(settings, reading.get("contexts"), statistics)
    config = ImageTextConfig(**encoders, **architecture(settings), **labels, **reading)
    model = ImageTextClassifier(config, trust_custom_encoder=True)
    max_length = settings.max_text_length
    if model.text_encoder is not None:
        if text_is_pretrained(settings):
            model.text_encoder.load_pretrained(settings.text_encoder, settings.text_revision)
            check_pretrained_encoder(model.text_encoder, tokenizer, settings.text_encoder)
        max_length = min(max_length, model.text_encoder.max_positions or max_length)
    if settings.audio_encoder != SCRATCH:
        for encoder in audio_encoders(model):
            encoder.load_pretrained(settings.audio_encoder)
    for name, own_encoder in picture_encoders(model).items():
        own_encoder.load(own[name], settings)
    load_image_encoder(model.image_encoder, settings)
    processor = build_processor(
        tokenizer, settings.image_size, max_length, **statistics, fit=settings.fit, frames=config.frames
    )
    return model, processor


def with_encoders(
    settings: ModelSettings, contexts: list[dict] | None, statistics: dict[str, list[float]]
) -> list[dict] | None:
    """The entries of ``contexts``, those of sounds and of pictures that have one with their encoder.

    Args:
        statistics: of the main image encoder, see `image_statistics`.
    """
    normal = statistics.get("image_mean", IMAGENET_MEAN), statistics.get("image_std", IMAGENET_STD)
    found = []
    for spec in contexts or ():
        if spec["kind"] == "audio":
            spec = spec | audio_encoder(settings)
        elif "encoder" in spec:
            spec = spec | {"encoder": picture_encoder(spec["encoder"], settings, *normal)}
        found.append(spec)
    return found or None


def architecture(settings: ModelSettings) -> dict[str, Any]:
    """The fields of `Architecture`, with the classifier that ``auto`` stands for."""
    values = {field.name: getattr(settings, field.name) for field in fields(Architecture)}
    if settings.classifier == "auto":
        values["classifier"] = "pooled" if image_is_pretrained(settings) else "mixture"
    return values


def image_config(settings: ModelSettings) -> dict[str, Any] | None:
    """The configuration of a backbone; ``None`` for VGG16."""
    if settings.image_encoder == VGG16:
        return None
    return backbone_config(settings.image_encoder, settings.image_revision)


def image_statistics(settings: ModelSettings) -> dict[str, list[float]]:
    """The statistics of an image encoder's preprocessing, if they are not those of `build_image_processor`."""
    if settings.image_encoder == VGG16:
        return {}
    return backbone_statistics(settings.image_encoder, settings.image_revision)


def load_image_encoder(encoder: ImageEncoder, settings: ModelSettings) -> None:
    """Load the initial weights of an image encoder."""
    if not isinstance(encoder, BackboneEncoder):
        load_image_weights(encoder, settings.image_weights, settings.batch_norm)
    elif image_is_pretrained(settings):
        encoder.load_pretrained(settings.image_encoder, settings.image_revision)


def build_initial_image_encoder(settings: ModelSettings) -> tuple[ImageEncoder, ViTImageProcessor]:
    """The image encoder with its initial weights, as `build_model` has it, and its preprocessing.

    Raises:
        UserError: as `build_model`.
    """
    config: dict[str, Any] = architecture(settings) | {"image_config": image_config(settings)}
    encoder = build_image_encoder(ImageTextConfig(**config))
    load_image_encoder(encoder, settings)
    return encoder, build_image_processor(settings.image_size, **image_statistics(settings))


def fetch_pretrained(
    settings: ModelSettings, has_text: bool = True, has_audio: bool = False, image_encoders: Sequence[str] = ()
) -> None:
    """Download what the model starts from and is not on the disk yet, before any data are read.

    Args:
        has_text, has_audio: whether the model has a text encoder, and one of sound.
        image_encoders: names of those that contexts have of their own.

    Raises:
        UserError: everything that could not be loaded, and the option that needs no download.
    """
    if settings.init:
        return  # a trained classifier has both
    steps: list[Callable[[], object]] = []
    if has_text and text_is_pretrained(settings):
        steps.append(partial(fetch_text_encoder, settings.text_encoder, settings.text_revision))
    if has_audio and settings.audio_encoder != SCRATCH:
        steps.append(partial(fetch_audio_encoder, settings.audio_encoder))
    if VGG16 in (settings.image_encoder, *image_encoders) and settings.image_weights == "imagenet":
        steps.append(partial(imagenet_state, settings.batch_norm))
    if settings.image_encoder != VGG16 and image_is_pretrained(settings):
        steps.append(partial(fetch_backbone, settings.image_encoder, settings.image_revision))
    problems = failures(steps)
    if problems:
        problems.append("To start from random weights, without any download: --recipe scratch")
    pretrained = [name for name in image_encoders if name != VGG16 and not is_backbone_type(name)]
    problems += failures([partial(fetch_backbone, name, instead=INSTEAD) for name in pretrained])
    if problems:
        raise UserError("\n".join(problems))


def failures(steps: Sequence[Callable[[], object]]) -> list[str]:
    """The messages of the steps that fail."""
    problems = []
    for step in steps:
        try:
            step()
        except UserError as error:
            problems.append(str(error))
    return problems


def text_is_pretrained(settings: ModelSettings) -> bool:
    """Whether the text encoder has pretrained weights: neither ``scratch`` nor a custom class."""
    return bool(settings.init) or (settings.text_encoder != "scratch" and not is_custom(settings.text_encoder))


def image_is_pretrained(settings: ModelSettings) -> bool:
    """Whether the image encoder has pretrained weights."""
    return bool(settings.init) or is_pretrained(settings.image_encoder, settings)


def is_custom(text_encoder: str) -> bool:
    """Whether the name of a text encoder is a Python file, with or without a class name."""
    return ".py:" in text_encoder or text_encoder.endswith(".py")


def build_text(settings: ModelSettings, texts: Iterable[str]) -> tuple[PreTrainedTokenizerBase, dict]:
    """The tokenizer, and the fields of `ImageTextConfig` that define the text encoder."""
    name = settings.text_encoder
    if name == "scratch":
        tokenizer = train_tokenizer(texts, settings.vocab_size)
        return tokenizer, {
            "text_config": scratch_text_config(tokenizer, settings.text_hidden_size, settings.text_layers)
        }
    if is_custom(name):
        file, class_name = split_name(name)
        encoder_class = load_custom_class(file, class_name)
        tokenizer = custom_tokenizer(encoder_class, texts) or train_tokenizer(texts, settings.vocab_size)
        kwargs = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        check_custom_encoder(encoder_class, kwargs)
        custom = f"{Path(file).resolve()}:{class_name}"
        return tokenizer, {"custom_text_encoder": custom, "custom_text_encoder_kwargs": kwargs}
    tokenizer = pretrained_tokenizer(name, settings.text_revision)
    return tokenizer, {"text_config": pretrained_text_config(name, settings.text_revision)}
