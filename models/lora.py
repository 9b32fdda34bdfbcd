"""LoRA: a pretrained text encoder learns by small matrices beside its own, which are kept as they are."""

import copy

from peft import LoraConfig, LoraModel
from torch import nn

from models.classifier import ImageTextClassifier

NAME = "default"


def add_lora(model: ImageTextClassifier, rank: int) -> None:
    """Add matrices of a rank beside all linear layers of the text encoder (Hu et al. 2022)."""
    assert model.text_encoder is not None
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    model.text_encoder.encoder = LoraModel(model.text_encoder.encoder, config, NAME)


def lora_rank(model: ImageTextClassifier) -> int:
    """The rank that was added, 0 where none was."""
    encoder = None if model.text_encoder is None else model.text_encoder.encoder
    return encoder.peft_config[NAME].r if isinstance(encoder, LoraModel) else 0


def own_parameters(model: ImageTextClassifier) -> set[nn.Parameter]:
    """What the text encoder had before LoRA, and keeps; empty without it."""
    if model.text_encoder is None or not lora_rank(model):
        return set()
    return {parameter for name, parameter in model.text_encoder.named_parameters() if "lora_" not in name}


def merge_lora(model: ImageTextClassifier) -> ImageTextClassifier:
    """The same model without LoRA, its matrices added to those they stand beside; the model given stays as it is."""
    if not lora_rank(model):
        return model
    merged = copy.deepcopy(model)
    assert merged.text_encoder is not None
    assert isinstance(merged.text_encoder.encoder, LoraModel)
    merged.text_encoder.encoder = merged.text_encoder.encoder.merge_and_unload()
    return merged
