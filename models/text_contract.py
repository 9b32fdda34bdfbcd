"""What a text encoder must fulfil, checked on short texts before anything is trained."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from data.errors import UserError
from models.custom_encoder import SAMPLES, construct, restore, tied_names
from models.text_encoder import INSTEAD, TextEncoder

TOLERANCE = 1e-4
"""Of the features of custom encoders that must not differ, absolute and relative."""
ROUNDING = 1e-3
"""Difference of the features of pretrained encoders, in their standard deviations, that rounding does not explain."""


def check_custom_encoder(encoder_class: type[nn.Module], kwargs: dict[str, Any]) -> None:
    """Check the contract of a custom encoder on two short texts.

    Args:
        kwargs: arguments of the constructor, with ``vocab_size`` and ``pad_token_id``.

    Raises:
        UserError: describes the first violation: hidden size, output type, shape, dtype, values, dependence on padding,
            gradients, or features that differ once the weights are saved and loaded.
    """
    encoder, name = construct(encoder_class, kwargs), encoder_class.__name__
    vocab_size, pad_token_id = kwargs["vocab_size"], kwargs["pad_token_id"]
    hidden_size = getattr(encoder, "hidden_size", None)
    if not isinstance(hidden_size, int) or hidden_size < 1:
        raise UserError(
            f"{name}.hidden_size must be a positive integer (the width of the output), got {hidden_size!r}."
        )
    encoder = encoder.eval()
    tokens = torch.arange(6) % max(vocab_size - 1, 1)
    tokens[tokens == pad_token_id] = vocab_size - 1
    long, short = torch.stack([tokens, tokens]), tokens[None, :4]
    long[1, 4:] = pad_token_id
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    output = call(encoder, name, long, mask)
    check_output(output, name, (2, 6, hidden_size))
    alone = call(encoder, name, short, mask[1:, :4])
    if not torch.allclose(output[1, :4], alone[0], atol=TOLERANCE, rtol=TOLERANCE):
        raise UserError(
            f"The features of {name} depend on padding (they differ by up to "
            f"{(output[1, :4] - alone[0]).abs().max():.3g}). Use attention_mask: 1 on real tokens, 0 on padding."
        )
    check_gradients(encoder, name, output)
    copies = {copy for names in tied_names(encoder) for copy in names[1:]}
    weights = {key: tensor for key, tensor in encoder.state_dict().items() if key not in copies}
    restore(again := construct(encoder_class, kwargs), weights)
    loaded = call(again.eval(), name, long, mask)
    if not torch.allclose(loaded, output, atol=TOLERANCE, rtol=TOLERANCE):
        raise UserError(
            f"{name}, constructed anew with the same weights, gives other features (they differ by up to "
            f"{(loaded - output).abs().max():.3g}). What they depend on must be a parameter, a buffer, or follow from "
            "the arguments of the constructor."
        )


def call(encoder: Callable, name: str, input_ids: Tensor, attention_mask: Tensor):
    try:
        return encoder(input_ids=input_ids, attention_mask=attention_mask)
    except Exception as error:
        raise UserError(
            f"{name}.forward(input_ids, attention_mask) failed on inputs of shape {tuple(input_ids.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def check_output(output, name: str, expected: tuple[int, ...]) -> None:
    if not isinstance(output, Tensor):
        raise UserError(f"{name}.forward must return a tensor {expected}, got {type(output).__name__}.")
    if tuple(output.shape) != expected:
        raise UserError(
            f"{name}.forward returned shape {tuple(output.shape)}, expected {expected}: (batch, tokens, hidden_size), "
            "one feature vector per token, not per text."
        )
    if not output.is_floating_point():
        raise UserError(f"{name}.forward must return floating-point features, got {output.dtype}.")
    if not output.isfinite().all():
        raise UserError(f"{name}.forward returned NaN or infinite values.")


def check_gradients(encoder: nn.Module, name: str, output: Tensor) -> None:
    trainable = {key: p for key, p in encoder.named_parameters() if p.requires_grad}
    if not trainable:
        return
    if not output.requires_grad:
        raise UserError(f"{name}.forward returned features without a gradient. Remove no_grad or detach.")
    grads = torch.autograd.grad(output.square().sum(), list(trainable.values()), allow_unused=True)
    if unused := [key for key, grad in zip(trainable, grads, strict=True) if grad is None]:
        raise UserError(f"{name} has parameters that its output does not depend on: {unused}. Use or remove them.")


@torch.no_grad()
def check_pretrained_encoder(encoder: TextEncoder, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Check that a pretrained encoder and its tokenizer fit together, and that padding does not change its features.

    Raises:
        UserError: a tokenizer with more tokens than the encoder has embeddings, another width than the configuration
            says, or features that depend on the other texts of a batch.
    """
    embeddings: nn.Module | None = None
    with suppress(NotImplementedError):  # an encoder of characters has no table
        embeddings = encoder.encoder.get_input_embeddings()  # type: ignore[operator]
    if isinstance(embeddings, nn.Embedding) and len(tokenizer) > (rows := embeddings.num_embeddings):
        raise UserError(
            f"The tokenizer of {name} has {len(tokenizer):,} tokens, its encoder has embeddings of {rows:,}. After "
            "adding tokens, call resize_token_embeddings(len(tokenizer)) on the encoder and save both."
        )
    longest = min(12, encoder.max_positions or 12)
    inputs = tokenizer([*SAMPLES], padding=True, truncation=True, max_length=longest, return_tensors="pt")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    was_training, length = encoder.training, int(mask[0].sum())
    encode = encoder.eval().encode
    output, alone = call(encode, name, ids, mask), call(encode, name, ids[:1, :length], mask[:1, :length])
    encoder.train(was_training)
    if output.shape[2] != encoder.hidden_size:
        raise UserError(
            f"The features of {name} have {output.shape[2]} channels, its configuration says {encoder.hidden_size}. "
            f"Choose another text encoder{INSTEAD}."
        )
    difference = (output[0, :length] - alone[0]).abs().max()
    if difference > ROUNDING * alone.std():
        raise UserError(
            f"The features of {name} depend on padding (they differ by up to {difference:.3g}), so the answer to a "
            f"text would depend on the others in its batch. Choose another text encoder{INSTEAD}."
        )
