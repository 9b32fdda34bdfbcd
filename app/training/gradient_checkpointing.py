"""Gradient checkpointing: recompute activations in the backward pass instead of storing them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from data.errors import UserError


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Store only the inputs of the blocks of the encoders (Chen et al. 2016).

    The running statistics of batch norm are the same as without it.

    Raises:
        UserError: no part of the model supports it.
    """
    if not any(hasattr(module, "gradient_checkpointing") for module in model.modules()):
        raise UserError(
            "No encoder of this model can recompute its activations: leave out --train.gradient_checkpointing, or use "
            "--model.image_encoder vgg16."
        )
    contexts = partial(contexts_of_both_passes, model)
    model.activation_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})


def contexts_of_both_passes(model: PreTrainedModel) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), batch_statistics_kept(model)


@contextmanager
def batch_statistics_kept(model: PreTrainedModel) -> Iterator[None]:
    """Let batch norm use batch statistics without updating its running statistics a second time."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, number) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, number
