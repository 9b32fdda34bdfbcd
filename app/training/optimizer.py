"""Parameter groups and optimizer: which parameters are trained, and with which learning rate and weight decay."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.optim import Optimizer

from data.errors import UserError
from models.classifier import ImageTextClassifier
from models.contexts import AudioTokens, audio_encoders, picture_encoders
from models.lora import base_parameters


def parts(model: ImageTextClassifier) -> dict[str, list[nn.Module | nn.Parameter]]:
    """The parts of a classifier by name; every parameter belongs to exactly one."""
    further = [part for context in model.contexts.children() for part in context.parts]  # type: ignore[union-attr]
    fusion = [model.context_grid, *further, model.frame_pooling, model.fusions, model.no_text, model.no_image]
    return {
        "image_encoder": [model.image_encoder, *picture_encoders(model).values()],
        "text_encoder": [model.text_encoder] if model.text_encoder else [],
        "audio_encoder": list(audio_encoders(model)),
        "fusion": [part for part in fusion if part is not None and not isinstance(part, AudioTokens)],
        "classifier": [model.classifier],
        "probe": [model.probe] if model.probe else [],
    }


def part_parameters(items: list[nn.Module | nn.Parameter]) -> Iterator[nn.Parameter]:
    for item in items:
        yield from [item] if isinstance(item, nn.Parameter) else item.parameters()


def parameter_groups(
    model: ImageTextClassifier,
    learning_rate: float,
    scales: dict[str, float],
    weight_decay: float,
    frozen_blocks: int = 0,
) -> list[dict]:
    """Two parameter groups per part: matrices with weight decay; norms, biases and single vectors without.

    Frozen parameters are in no group and have ``requires_grad=False``. With LoRA the weights that it adapts are frozen.

    Args:
        scales: part → factor of the learning rate; 0 freezes the part.
        frozen_blocks: number of frozen VGG16 blocks, counted from the first.

    Raises:
        UserError: every part is frozen, or ``frozen_blocks`` with another image encoder.
    """
    groups = []
    frozen = set(model.image_encoder.blocks(0, frozen_blocks).parameters()) if frozen_blocks else set()
    frozen |= base_parameters(model)
    for part, items in parts(model).items():
        for parameter in part_parameters(items):
            parameter.requires_grad_(scales[part] > 0 and parameter not in frozen)
        parameters = [parameter for parameter in part_parameters(items) if parameter.requires_grad]
        for name, decay, chosen in (
            (part, weight_decay, [p for p in parameters if p.squeeze().ndim > 1]),
            (f"{part} (no decay)", 0.0, [p for p in parameters if p.squeeze().ndim <= 1]),
        ):
            if chosen:
                groups.append(
                    {"name": name, "params": chosen, "lr": learning_rate * scales[part], "weight_decay": decay}
                )
    if not groups:
        raise UserError("Every part is frozen (all train.scales are 0): there is nothing to train.")
    return groups


def build_optimizer(name: str, groups: list[dict], sharded: bool = False) -> Optimizer:
    """``adamw`` (Loshchilov & Hutter 2019) or ``sgd`` with momentum 0.9. Torch cannot fuse SGD on sharded weights."""
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    return torch.optim.SGD(groups, momentum=0.9, fused=not sharded)
