"""Full model and optimizer state, also when they are sharded over processes (FSDP)."""

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
"""Gather all weights in the CPU memory of the main process; other processes get nothing."""
EVERYWHERE = StateDictOptions(full_state_dict=True)
OTHER_MODEL = (
    "Data, encoder or code have changed since the run was started: restore them, or start a new run with "
    "--overwrite true."
)
"""Why the weights of a checkpoint may not fit the model."""


def sharding_plugin() -> FullyShardedDataParallelPlugin | None:
    """The FSDP plugin with float32 weights if `accelerate launch` was configured for FSDP, otherwise ``None``.

    Half precision comes from autocast, as without FSDP: batch norm does not work with weights that FSDP casts.

    Raises:
        UserError: `accelerate launch` was configured for DeepSpeed.
    """
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "DeepSpeed is not supported: its checkpoints are pickled and do not record the position in an epoch. FSDP "
            "also shards weights, gradients and optimizer state: accelerate launch "
            "--config_file configs/accelerate/fsdp.yaml train.py … (docs/training.md)."
        )
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return None
    return FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy())


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the weights are sharded over processes."""
    return accelerator.distributed_type == DistributedType.FSDP


def whole_model(model: nn.Module, accelerator: Accelerator) -> ImageTextClassifier:
    """The unsharded model: the model itself, or a copy if it is sharded.

    All processes must call it; it also copies the batch norm statistics of the main process to all others.
    """
    whole = accelerator.unwrap_model(model)
    if is_sharded(accelerator):
        weights, rank = get_model_state_dict(whole, options=EVERYWHERE), lora_rank(whole)
        with torch.random.fork_rng():
            whole = ImageTextClassifier(whole.config, trust_custom_encoder=True)  # it was trained in this run
            if rank:
                add_lora(whole, rank)
        whole.load_state_dict(weights)
        whole = whole.to(accelerator.device)
    for buffer in whole.buffers():
        broadcast(buffer)
    return whole


def whole_state(model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any], list[dict]]:
    """Weights, optimizer tensors by ``<parameter>.<name>``, and parameter groups, all on the main process.

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
    """Restore the state that `whole_state` returned; each process passes all of it and keeps its shard.

    Parameters without a gradient have no optimizer state: the text encoder without fusion, DINOv2's mask token.

    Raises:
        UserError: the weights are those of another model.
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
    """The torch optimizer inside that of accelerate."""
    return getattr(optimizer, "optimizer", optimizer)
