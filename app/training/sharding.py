"""Weights and optimiser state as a whole, also where several processes hold a part each (FSDP)."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, broadcast, parse_flag_from_env
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.optim import Optimizer

from data.errors import UserError
from models import ImageTextClassifier
from models.lora import add_lora, lora_rank
from models.weight_check import check_weights, compare_weights

ON_MAIN = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""All weights, in the memory of the main process; the others get nothing."""
EVERYWHERE = StateDictOptions(full_state_dict=True)
OTHER_MODEL = (
    "Data, encoder or code are not those that the run was begun with: bring them back, or start anew with "
    "--overwrite true."
)
"""Why the weights of a checkpoint may not fit."""


def sharding_plugin() -> FullyShardedDataParallelPlugin | None:
    """Settings of FSDP where `accelerate launch` was asked for it: those of its configuration, with float32 weights.

    Half precision is autocast's affair, as without FSDP; weights cast by FSDP do not go with batch norm.

    Raises:
        UserError: DeepSpeed was asked for.
    """
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "DeepSpeed is not supported: its checkpoints are pickled and hold no exact place in an epoch. FSDP shards "
            "weights, gradients and optimiser state too: accelerate launch --config_file configs/accelerate/fsdp.yaml "
            "train.py … (docs/training.md)."
        )
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return None
    return FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy())


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether each process holds a part of the weights."""
    return accelerator.distributed_type == DistributedType.FSDP


def whole_model(model: nn.Module, accelerator: Accelerator) -> ImageTextClassifier:
    """The model as one process can run and save it: itself, or a copy where each process holds a part of it.

    All processes must call it, and then have the batch statistics of the main process.
    """
    whole = accelerator.unwrap_model(model)
    if is_sharded(accelerator):
        weights, rank = get_model_state_dict(whole, options=EVERYWHERE), lora_rank(whole)
        with torch.random.fork_rng():
            whole = ImageTextClassifier(whole.config, trust_custom_encoder=True)  # the run has been trusted with it
            if rank:
                add_lora(whole, rank)
        whole.load_state_dict(weights)
        whole = whole.to(accelerator.device)
    for buffer in whole.buffers():
        broadcast(buffer)
    return whole


def whole_state(model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any], list[dict]]:
    """Weights, the optimiser's tensors by ``<parameter>.<name>``, and its parameter groups, on the main process.

    All processes must call it.
    """
    weights: Any = get_model_state_dict(model, options=ON_MAIN)
    found: Any = get_optimizer_state_dict(model, unwrapped(optimizer), options=ON_MAIN)
    moments = {
        f"{parameter}.{name}": torch.as_tensor(value)
        for parameter, values in found.get("state", {}).items()
        for name, value in values.items()
    }
    return weights, moments, found.get("param_groups", [])


def restore_state(
    model: nn.Module,
    optimizer: Optimizer,
    weights: dict[str, Any],
    moments: dict[str, Any],
    groups: list[dict],
) -> None:
    """Put back what `whole_state` gave; every process has been given all of it and takes its part.

    A parameter that no gradient reaches has no moments: the text encoder's without fusion, DINOv2's mask token.

    Raises:
        UserError: weights of another model.
    """
    own: Any = get_model_state_dict(model)
    check_weights("the checkpoint", "the model", set(own), compare_weights(weights, own), OTHER_MODEL, whole=True)
    set_model_state_dict(model, weights, options=EVERYWHERE)
    state: dict[str, Any] = {}
    for key, tensor in moments.items():
        parameter, _, name = key.rpartition(".")
        state.setdefault(parameter, {})[name] = tensor
    both: dict[str, Any] = {"state": state, "param_groups": groups}
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_optimizer_state_dict(model, unwrapped(optimizer), both, options=options)


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Torch's own optimiser, which accelerate's has inside."""
    return getattr(optimizer, "optimizer", optimizer)
