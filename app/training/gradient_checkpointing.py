"""Gradient checkpointing: activations are computed again in the backward pass in place of being kept."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Keep only what goes into each block of the encoders (Chen et al. 2016); the running means of batch norm are
    those of training without it.

    Raises:
        UserError: no part of the model knows how.
    """
    contexts = partial(contexts_of_both_passes, model)
    model.activation_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})


def contexts_of_both_passes(model: PreTrainedModel) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), batch_statistics_kept(model)


@contextmanager
def batch_statistics_kept(model: PreTrainedModel) -> Iterator[None]:
    """Batch norm normalises as in training and leaves its running means alone, which the first pass has updated."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, number) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, number
