"""A custom text encoder in one file: its protocol, and how it is loaded.

The file defines a class that is constructed with ``vocab_size`` and ``pad_token_id`` and follows `CustomTextEncoder`.
It is given as ``path/to/file.py:ClassName``. The tokenizer is trained on the training texts unless the class has a
static method ``tokenizer(texts)`` that returns a HuggingFace tokenizer.
"""

import inspect
import runpy
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from data.errors import UserError
from data.messages import excerpt
from models.configuration import ImageTextConfig

SAVED_NAME = "custom_text_encoder.py"
"""Name of the file in the folder of a saved model."""
SAMPLES = ("what is it?", "is there a red circle in the upper left corner of the picture?")
"""Texts for checks of tokenizers and encoders."""


CODE: WeakKeyDictionary[type[nn.Module], bytes] = WeakKeyDictionary()
"""Class of an encoder → content of its file when it was loaded; the file may be edited or deleted during a training."""


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
    encoder_class = load_custom_class(find_file(config), class_name)
    encoder = construct(encoder_class, config.custom_text_encoder_kwargs or {})
    CODE[type(encoder)] = CODE[encoder_class]  # a constructor may return an object of another class
    return encoder


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
        code = file.read_bytes()
        content = runpy.run_path(str(file), run_name=file.stem)
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"{file} could not be run: {type(error).__name__}: {error}") from error
    found = [name for name, value in content.items() if inspect.isclass(value) and issubclass(value, nn.Module)]
    if class_name not in found:
        raise UserError(f"{file} has no torch.nn.Module named {class_name!r}; its modules are {found}.")
    CODE[content[class_name]] = code
    return content[class_name]


def construct(encoder_class: type[nn.Module], kwargs: dict) -> nn.Module:
    """Construct the encoder with ``vocab_size`` and ``pad_token_id``.

    It gets real tensors also where transformers builds a model without memory, to fill it from a file: a constructor
    may compute with them, or load pretrained weights.

    Raises:
        UserError: the constructor failed.
    """
    try:
        with torch.device("cpu"):
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
    tokenizer.padding_side = "right"  # positions are counted from the left
    check_saved_tokenizer(tokenizer, name)
    return tokenizer


def check_saved_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Check that a tokenizer is the same after it was saved and loaded.

    Raises:
        UserError: it is not, such as one whose class transformers does not know.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            loaded = AutoTokenizer.from_pretrained(folder)
        is_same = all(loaded(text).input_ids == tokenizer(text).input_ids for text in SAMPLES)
        cause = "" if is_same else "the loaded one gives other tokens"
    except Exception as error:  # the user's code may raise anything
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if cause:
        raise UserError(
            f"The tokenizer of {name} cannot be saved and loaded ({excerpt(cause, 200)}). Return one of a class of "
            "transformers, such as PreTrainedTokenizerFast(tokenizer_object=…, pad_token=…)."
        )


def tied_names(encoder: nn.Module) -> list[list[str]]:
    """The names of weights in groups that share one tensor, each in the order of the state dict."""
    groups: dict[Tensor, list[str]] = {}
    for name, tensor in encoder.state_dict(keep_vars=True).items():
        groups.setdefault(tensor, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def restore(encoder: nn.Module, weights: Mapping[str, Tensor]) -> set[str]:
    """Give a newly constructed encoder the weights of a file, which has each shared tensor once.

    Returns:
        the names of the weights that it has now.
    """
    encoder.load_state_dict(weights, strict=False)
    return {*weights}.union(*(names for names in tied_names(encoder) if not weights.keys().isdisjoint(names)))
