"""Small models whose saved weights are changed before they are loaded."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from tiny import shared_encoder
from transformers import (
    ResNetConfig,
)

from models.build import build_model
from models.settings import ModelSettings

WEIGHTS = "model.safetensors"
RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic")


def edit(folder: Path, change) -> None:
    """Replace the weights of a folder by what a function makes of them."""
    changed = {name: tensor.clone() for name, tensor in change(load_file(folder / WEIGHTS)).items()}
    save_file(changed, folder / WEIGHTS, metadata={"format": "pt"})


def build(**settings):
    small = {"image_size": 64, "text_hidden_size": 16, "text_layers": 1, "classifier_hidden_size": 16}
    small |= {"image_encoder": shared_encoder(), "image_weights": "none", "text_encoder": "scratch"}
    return build_model(ModelSettings(**small | settings), ["a", "b"], ["some words"])


def text_folder(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def renamed(prefix: str):
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


def without(part: str):
    return lambda weights: {name: tensor for name, tensor in weights.items() if part not in name}
