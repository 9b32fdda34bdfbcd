"""A custom text encoder in one file: its protocol, loader and contract checker.

The file defines a class that is constructed with ``vocab_size`` and ``pad_token_id`` and follows `CustomTextEncoder`.
It is given as ``path/to/file.py:ClassName``. The tokenizer is trained on the training texts unless the class has a
static method ``tokenizer(texts)`` that returns a HuggingFace tokenizer.
"""

import inspect
import runpy
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from data.errors import UserError
from models.configuration import ImageTextConfig

SAVED_NAME = "custom_text_encoder.py"
"""Name of the file in the folder of a saved model."""


@runtime_checkable
class CustomTextEncoder(Protocol):
    """The interface of the class, which must also be an ``nn.Module``.

    Attributes:
        hidden_size: width of the token features.

    Shape:
        - input_ids: ``(B, L)`` int64; attention_mask: ``(B, L)`` int64, 1 on real tokens and 0 on padding
        - returns: ``(B, L, hidden_size)`` floating point; the features of real tokens must not depend on padding
    """

    hidden_size: int

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor: ...


def build_custom_encoder(config: ImageTextConfig, trust: bool) -> nn.Module:
    """Import and construct the custom encoder of a configuration.

    Raises:
        UserError: the file is not trusted, or the class cannot be loaded.
    """
    file, class_name = split_name(config.custom_text_encoder)
    if not trust:
        raise UserError(
            f"The text encoder of this model is custom Python code ({config.custom_text_encoder}). Read {file}. If you "
            "trust it, load the model with trust_custom_encoder=True (command line: --trust_custom_encoder true)."
        )
    return construct(load_custom_class(find_file(config), class_name), config.custom_text_encoder_kwargs or {})


def split_name(name: str | None) -> tuple[str, str]:
    """Split ``file.py:ClassName`` into file and class name.

    Raises:
        UserError: a name of another form.
    """
    file, separator, class_name = (name or "").rpartition(":")
    if not separator or not file.endswith(".py") or not class_name.isidentifier():
        raise UserError(f"A custom text encoder must be given as path/to/file.py:ClassName, got {name!r}.")
    return file, class_name


def find_file(config: ImageTextConfig) -> Path:
    """The file of the encoder: an absolute path during training, else beside the weights of a saved model."""
    file, _ = split_name(config.custom_text_encoder)
    if Path(file).is_absolute():
        return Path(file)
    return Path(cached_file(config.name_or_path, SAVED_NAME))


def load_custom_class(file: str | Path, class_name: str) -> type[nn.Module]:
    """Run the file and return the class.

    Raises:
        UserError: no such file or class, or an error while the file runs.
    """
    file = Path(file)
    if not file.is_file():
        raise UserError(f"There is no file {file} with the text encoder {class_name}.")
    try:
        content = runpy.run_path(str(file), run_name=file.stem)
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"{file} could not be run: {type(error).__name__}: {error}") from error
    found = [name for name, value in content.items() if inspect.isclass(value) and issubclass(value, nn.Module)]
    if class_name not in found:
        raise UserError(f"{file} has no torch.nn.Module named {class_name!r}; its modules are {found}.")
    return content[class_name]


def construct(encoder_class: type[nn.Module], kwargs: dict) -> nn.Module:
    """Construct the encoder with ``vocab_size`` and ``pad_token_id``.

    Raises:
        UserError: the constructor failed.
    """
    try:
        return encoder_class(**kwargs)
    except Exception as error:
        arguments = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
        raise UserError(
            f"{encoder_class.__name__}({arguments}) failed: {type(error).__name__}: {error}. The constructor must "
            "accept vocab_size and pad_token_id."
        ) from error


def custom_tokenizer(encoder_class: type[nn.Module], texts: Iterable[str]) -> PreTrainedTokenizerBase | None:
    """The tokenizer that the class's method ``tokenizer(texts)`` returns; ``None`` without such a method.

    Raises:
        UserError: the method failed, or its result is not a HuggingFace tokenizer with a padding token.
    """
    if not hasattr(encoder_class, "tokenizer"):
        return None
    name = f"{encoder_class.__name__}.tokenizer(texts)"
    try:
        tokenizer = encoder_class.tokenizer(texts)
    except Exception as error:
        raise UserError(f"{name} failed: {type(error).__name__}: {error}. It must be a static method.") from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(f"{name} must return a HuggingFace tokenizer, got {type(tokenizer).__name__}.")
    if tokenizer.pad_token is None:
        raise UserError(f"{name} returned a tokenizer without a padding token. Set its pad_token.")
    return tokenizer


def check_custom_encoder(encoder: nn.Module, vocab_size: int, pad_token_id: int) -> None:
    """Check the contract of a custom encoder on two short texts.

    Raises:
        UserError: describes the first violation: hidden size, buffers, output type, shape, dtype, values, dependence on
            padding, or gradients.
    """
    name = type(encoder).__name__
    hidden_size = getattr(encoder, "hidden_size", None)
    if not isinstance(hidden_size, int) or hidden_size < 1:
        raise UserError(
            f"{name}.hidden_size must be a positive integer (the width of the output), got {hidden_size!r}."
        )
    if missing := set(dict(encoder.named_buffers())) - set(encoder.state_dict()):
        raise UserError(
            f"{name} has buffers that are not saved: {sorted(missing)}. Register them with persistent=True, so that "
            "the loaded model equals the trained one."
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
    if not torch.allclose(output[1, :4], alone[0], atol=1e-4, rtol=1e-4):
        raise UserError(
            f"The features of {name} depend on padding (they differ by up to "
            f"{(output[1, :4] - alone[0]).abs().max():.3g}). Use attention_mask: 1 on real tokens, 0 on padding."
        )
    check_gradients(encoder, name, output)


def call(encoder: nn.Module, name: str, input_ids: Tensor, attention_mask: Tensor):
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
