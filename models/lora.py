"""LoRA for a pretrained text encoder: low-rank matrices are trained, the weights of the encoder are frozen."""

import copy

from peft import LoraConfig, LoraModel
from torch import nn

from models.classifier import ImageTextClassifier

NAME = "default"
"""Name of the PEFT adapter."""


def add_lora(model: ImageTextClassifier, rank: int) -> None:
    """Add LoRA matrices of a rank to all linear layers of the text encoder (Hu et al. 2022), in place."""
    assert model.text_encoder is not None
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    model.text_encoder.encoder = LoraModel(model.text_encoder.encoder, config, NAME)


def lora_rank(model: ImageTextClassifier) -> int:
    """The rank of the LoRA matrices; 0 without LoRA."""
    encoder = None if model.text_encoder is None else model.text_encoder.encoder
    return encoder.peft_config[NAME].r if isinstance(encoder, LoraModel) else 0


def base_parameters(model: ImageTextClassifier) -> set[nn.Parameter]:
    """The parameters of the text encoder that LoRA freezes, all but its own matrices; empty without LoRA."""
    if model.text_encoder is None or not lora_rank(model):
        return set()
    return {parameter for name, parameter in model.text_encoder.named_parameters() if "lora_" not in name}


def merge_lora(model: ImageTextClassifier) -> ImageTextClassifier:
    """A copy of the model with the LoRA matrices merged into the weights; without LoRA, the model itself."""
    if not lora_rank(model):
        return model
    merged = copy.deepcopy(model)
    assert merged.text_encoder is not None
    assert isinstance(merged.text_encoder.encoder, LoraModel)
    merged.text_encoder.encoder = merged.text_encoder.encoder.merge_and_unload()
    return merged
