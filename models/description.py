"""Describe a classifier to a reader: one line for each of its parts."""

from __future__ import annotations

from models.classifier import ImageTextClassifier
from models.configuration import ImageTextConfig
from models.onnx_classifier import OnnxModel


def describe_model(model: ImageTextClassifier | OnnxModel) -> dict[str, str]:
    """One line for each part: encoders, contexts, fusion, classifier, number of labels and of parameters."""
    config = model.config
    has_attention = config.fusion not in ("concat", "none")
    contexts = describe_contexts(config)
    frames = "" if config.frames == 1 else f", {config.frames} frames of each video"
    return {
        "image encoder": f"{describe_image_encoder(config)} at {config.image_size} × {config.image_size} px{frames}",
        "text encoder": describe_text_encoder(config),
        **({"contexts": contexts} if contexts else {}),
        "fusion": f"{config.fusion}, attention {config.attention}" if has_attention else config.fusion,
        "classifier": describe_classifier(config),
        "labels": f"{config.num_labels:,}",
        "parameters": f"{model.num_parameters() / 1e6:.1f} million",
    }


def describe_contexts(config: ImageTextConfig) -> str:
    """The contexts beside image and text, with the columns of those that have several, and with own encoders."""
    found = []
    for spec in config.contexts or ():
        what = ", ".join(spec["columns"]) if len(spec["columns"]) > 1 else spec["kind"]
        if own := spec.get("encoder"):
            what += f" through {own['config']['model_type'] if own['config'] else 'a second VGG16'}"
        found.append(f"{spec['name']} ({what})")
    return ", ".join(found)


def describe_classifier(config: ImageTextConfig) -> str:
    if not config.linear_probe:
        return config.classifier
    kept = "" if config.classifier_scale == 1 else f", at {config.classifier_scale:.0%} of its logits"
    return f"{config.classifier}{kept}, beside a linear probe of the encoders"


def describe_image_encoder(config: ImageTextConfig) -> str:
    if config.image_config is not None:
        assert not isinstance(config.image_config, dict)
        return config.image_config.model_type
    return "VGG16 with batch norm" if config.batch_norm else "VGG16"


def describe_text_encoder(config: ImageTextConfig) -> str:
    if not config.has_text:
        return "none"
    if config.context_hidden_size:
        return f"none (context features of width {config.context_hidden_size})"
    if config.custom_text_encoder:
        return config.custom_text_encoder
    assert config.text_config is not None
    assert not isinstance(config.text_config, dict)
    return config.text_config.model_type
