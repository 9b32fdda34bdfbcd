"""Parameter groups and optimizer: which parameters are trained, and with which learning rate and weight decay."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
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


def build_optimizer(name: str, groups: list[dict], model: ImageTextClassifier, sharded: bool = False) -> Optimizer:
    """``adamw`` (Loshchilov & Hutter 2019), ``muon`` (Jordan et al. 2024) or ``sgd`` with momentum 0.9.

    Raises:
        UserError: ``muon`` with sharded weights, because it needs whole matrices.
    """
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, fused=not sharded)  # torch cannot fuse it on sharded weights
    if sharded:
        raise UserError("--train.optimizer muon needs whole matrices, not shards of them: use adamw with FSDP.")
    from timm.optim import Muon  # its import takes a moment

    return Muon(muon_groups(groups, model), nesterov=True)


def muon_groups(groups: list[dict], model: ImageTextClassifier) -> list[dict]:
    """Divide groups into the weights of hidden layers and all other parameters, which Muon leaves to AdamW.

    The others are embeddings, learned tokens, norms, biases, and the layers whose outputs are the classes. Muon
    orthogonalizes the update of a weight, with the input channels and cells of a convolution as one dimension, and
    scales it to the size of AdamW's, so that both can share a learning rate (Liu et al. 2025, section 2.2).
    """
    hidden = {module.weight for module in model.modules() if isinstance(module, nn.Linear | _ConvNd)}
    heads = [module for part in (model.classifier, model.probe) if part is not None for module in part.modules()]
    hidden -= {m.weight for m in heads if isinstance(m, nn.Linear) and m.out_features == model.config.num_labels}
    found = []
    for group in groups:
        for is_hidden in (True, False):
            if chosen := [parameter for parameter in group["params"] if (parameter in hidden) == is_hidden]:
                found.append({**group, "params": chosen, "use_fallback": not is_hidden})
    return found
