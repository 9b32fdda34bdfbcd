"""The parts of a classifier, one line each."""

from __future__ import annotations

from models import ImageTextClassifier
from models.onnx_classifier import OnnxModel


def describe_model(model: ImageTextClassifier | OnnxModel) -> dict[str, str]:
    """Its parts in a line each."""
    config = model.config
    image = "VGG16" + (" with batch norm" if config.batch_norm else "")
    return {
        "image encoder": f"{image if config.image_config is None else config.image_config.model_type} at "
        f"{config.image_size} × {config.image_size} px",
        "text encoder": config.custom_text_encoder or config.text_config.model_type,
        "fusion": config.fusion
        if config.fusion in ("concat", "none")
        else f"{config.fusion}, attention {config.attention}",
        "labels": f"{config.num_labels:,}",
        "parameters": f"{model.num_parameters() / 1e6:.1f} million",
    }
