"""A text encoder of the user's own, in one file: the protocol, the loader and the contract checker.

The file holds a class that is constructed with ``vocab_size`` and ``pad_token_id`` and obeys `CustomTextEncoder`.
It is named as ``path/to/file.py:ClassName``. The tokenizer is trained on the training texts unless the class has a
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


@runtime_checkable
class CustomTextEncoder(Protocol):
    """What the class must offer (an ``nn.Module`` besides).

    Attributes:
        hidden_size: width of the token features.

    Shape:
        - input_ids: ``(B, L)`` int64; attention_mask: ``(B, L)`` int64, 1 on real tokens and 0 on padding
        - returns: ``(B, L, hidden_size)`` floating point; features of real tokens must not depend on padding
    """

    hidden_size: int

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor: ...


def build_custom_encoder(config: ImageTextConfig, trust: bool) -> nn.Module:
    """Import and construct the encoder that the configuration names.

    Raises:
        UserError: no trust was given, or the class is not there.
    """
    file, class_name = split_name(config.custom_text_encoder)
    if not trust:
        raise UserError(
            f"This model's text encoder is Python code of its own ({config.custom_text_encoder}). Read {file}, and if "
            "you trust it, load the model with trust_custom_encoder=True (command line: --trust_custom_encoder)."
        )
    return construct(load_custom_class(find_file(config), class_name), config.custom_text_encoder_kwargs or {})


def split_name(name: str | None) -> tuple[str, str]:
    """``file.py:ClassName`` → its two parts."""
    file, separator, class_name = (name or "").rpartition(":")
    if not separator or not file.endswith(".py") or not class_name.isidentifier():
        raise UserError(f"A custom text encoder is named as path/to/file.py:ClassName, got {name!r}.")
    return file, class_name


def find_file(config: ImageTextConfig) -> Path:
    """The encoder's file: absolute during training, beside the weights of a saved model (local or on the Hub)."""
    file, _ = split_name(config.custom_text_encoder)
    if Path(file).is_absolute():
        return Path(file)
    return Path(cached_file(config.name_or_path, SAVED_NAME))


def load_custom_class(file: str | Path, class_name: str) -> type[nn.Module]:
    """Run the file and return the class, or say what is missing."""
    file = Path(file)
    if not file.is_file():
        raise UserError(f"There is no file {file} to load the text encoder {class_name} from.")
    try:
        content = runpy.run_path(str(file), run_name=file.stem)
    except Exception as error:  # whatever the user's code raises
        raise UserError(f"{file} could not be run: {type(error).__name__}: {error}") from error
    found = [name for name, value in content.items() if inspect.isclass(value) and issubclass(value, nn.Module)]
    if class_name not in found:
        raise UserError(f"{file} has no torch.nn.Module called {class_name!r}; its modules are {found}.")
    return content[class_name]


def construct(encoder_class: type[nn.Module], kwargs: dict) -> nn.Module:
    """The encoder, constructed with ``vocab_size`` and ``pad_token_id``."""
    try:
        return encoder_class(**kwargs)
    except Exception as error:
        arguments = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
        raise UserError(
            f"{encoder_class.__name__}({arguments}) failed: {type(error).__name__}: {error}. The class is constructed "
            "with vocab_size and pad_token_id."
        ) from error


def custom_tokenizer(encoder_class: type[nn.Module], texts: Iterable[str]) -> PreTrainedTokenizerBase | None:
    """What the class's own ``tokenizer(texts)`` returns, checked; ``None`` where it has no such method."""
    if not hasattr(encoder_class, "tokenizer"):
        return None
    name = f"{encoder_class.__name__}.tokenizer(texts)"
    try:
        tokenizer = encoder_class.tokenizer(texts)
    except Exception as error:
        raise UserError(f"{name} failed: {type(error).__name__}: {error}; make it a static method.") from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(f"{name} must return a HuggingFace tokenizer, got {type(tokenizer).__name__}.")
    if tokenizer.pad_token is None:
        raise UserError(f"{name} returned a tokenizer without a padding token; set its pad_token.")
    return tokenizer


def check_custom_encoder(encoder: nn.Module, vocab_size: int, pad_token_id: int) -> None:
    """Try the encoder on two short texts and say in words what breaks its contract.

    Raises:
        UserError: names the first fault: attribute, output type, shape, dtype, values, padding, buffers, gradients.
    """
    name = type(encoder).__name__
    hidden_size = getattr(encoder, "hidden_size", None)
    if not isinstance(hidden_size, int) or hidden_size < 1:
        raise UserError(f"{name}.hidden_size must be a positive integer, the width of its output; got {hidden_size!r}.")
    if missing := set(dict(encoder.named_buffers())) - set(encoder.state_dict()):
        raise UserError(
            f"{name} has buffers that are not saved: {sorted(missing)}; register them with persistent=True, or the "
            "loaded model would not equal the trained one."
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
            f"{name} gives a text other features when padding follows it (they differ by up to "
            f"{(output[1, :4] - alone[0]).abs().max():.3g}): use attention_mask, 1 on real tokens and 0 on padding."
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
            "one feature vector a token, not one a text."
        )
    if not output.is_floating_point():
        raise UserError(f"{name}.forward must return floating-point features, got {output.dtype}.")
    if not output.isfinite().all():
        raise UserError(f"{name}.forward returned values that are not finite.")


def check_gradients(encoder: nn.Module, name: str, output: Tensor) -> None:
    trainable = {key: p for key, p in encoder.named_parameters() if p.requires_grad}
    if not trainable:
        return
    if not output.requires_grad:
        raise UserError(f"{name}.forward returns features without a gradient; remove no_grad or detach.")
    grads = torch.autograd.grad(output.square().sum(), list(trainable.values()), allow_unused=True)
    if unused := [key for key, grad in zip(trainable, grads, strict=True) if grad is None]:
        raise UserError(f"{name} has parameters that its output does not depend on: {unused}; use or remove them.")
