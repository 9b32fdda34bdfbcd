"""Parameter groups, optimiser and schedule: which parameters learn, and how fast."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from data.errors import UserError
from models.classifier import ImageTextClassifier
from models.lora import base_parameters


def parts(model: ImageTextClassifier) -> dict[str, list[nn.Module | nn.Parameter]]:
    """The four parts of a classifier by name; every parameter belongs to one."""
    return {
        "image_encoder": [model.image_encoder],
        "text_encoder": [model.text_encoder] if model.text_encoder else [],
        "fusion": [model.context_grid, model.fusions, model.no_text, model.no_image],
        "classifier": [model.classifier],
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
    """Two groups a part, with weight decay and (norms, biases, single vectors) without; frozen parts have none.

    Args:
        scales: part → multiple of the learning rate; 0 freezes the part, as ``requires_grad`` then says too.
        frozen_blocks: how many of VGG16's blocks, from the first, are frozen. What LoRA stands beside is frozen too.

    Raises:
        UserError: every part is frozen, or blocks of another image encoder.
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
        raise UserError("Every part is frozen (all of train.scales are 0): there is nothing to train.")
    return groups


def build_optimizer(name: str, groups: list[dict], sharded: bool = False) -> Optimizer:
    """``adamw`` (Loshchilov & Hutter 2019) or ``sgd`` with momentum 0.9, which torch fuses for whole weights alone."""
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    return torch.optim.SGD(groups, momentum=0.9, fused=not sharded)


def build_schedule(optimizer: Optimizer, *course, **more) -> LambdaLR:
    """A schedule of the learning rate by optimiser step, with the factor that `rate_factor` gives."""
    return LambdaLR(optimizer, rate_factor(*course, **more))


def rate_factor(
    kind: str,
    num_steps: int,
    warmup: float,
    steps_per_epoch: int,
    step_epochs: int = 5,
    step_gamma: float = 0.1,
) -> Callable[[int], float]:
    """Learning-rate factor by optimiser step: a linear rise, then cosine, steps or a constant.

    Args:
        num_steps: optimiser steps of the whole run.
        warmup: share of them in which the rate rises, in [0, 1].
        step_epochs, step_gamma: the ``step`` schedule multiplies by gamma every so many epochs.
    """
    warmup_steps = round(warmup * num_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if kind == "step":
            return step_gamma ** (step // (step_epochs * steps_per_epoch))
        if kind == "cosine":
            progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return 1.0

    return factor
