"""Initial weights of VGG16: torchvision's ImageNet weights, a torchvision state dict, or a saved classifier."""

from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import VGG16_BN_Weights, VGG16_Weights

from data.errors import UserError
from models.vgg import VGG16Encoder
from models.weight_check import check_weights, compare_weights, list_names, needed_names

PREFIXES = ("features.", "image_encoder.features.")
"""Prefixes of the feature layers in a torchvision state dict and in the weights of a saved classifier."""


def load_image_weights(encoder: VGG16Encoder, weights: str, batch_norm: bool) -> None:
    """Load the ``features`` of a torchvision VGG16 (without its ImageNet classifier) or of a saved classifier.

    Args:
        weights: ``none``, ``imagenet`` or a file.
        batch_norm: whether the encoder is ``vgg16_bn``.

    Raises:
        UserError: a failed download, a missing file, or the weights of another network.
    """
    if weights == "none":
        return
    state = imagenet_state(batch_norm) if weights == "imagenet" else file_state(Path(weights))
    prefix = next((p for p in PREFIXES if any(key.startswith(p) for key in state)), PREFIXES[0])
    found = {key: value for key, value in state.items() if key.startswith(prefix)} or state
    expected = {prefix + key: value for key, value in encoder.features.state_dict().items()}
    network = f"the features of torchvision's {'vgg16_bn' if batch_norm else 'vgg16'}"
    needed = {prefix + key for key in needed_names(encoder.features)}
    advice = f"Check that --model.batch_norm {str(batch_norm).lower()} matches this file."
    check_weights(weights, network, needed, compare_weights(found, expected), advice, whole=True)
    encoder.features.load_state_dict({key.removeprefix(prefix): value for key, value in found.items()})


def imagenet_state(batch_norm: bool) -> dict[str, Tensor]:
    """Torchvision's ImageNet weights, downloaded or from its cache."""
    weights = VGG16_BN_Weights.IMAGENET1K_V1 if batch_norm else VGG16_Weights.IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"Could not download torchvision's ImageNet weights ({error}). When offline, download {weights.url} on "
            f"another machine and put the file into {Path(torch.hub.get_dir()) / 'checkpoints'}, or name it with "
            "--model.image_weights FILE. To start from random weights: --model.image_weights none."
        ) from error


def file_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, read without running code."""
    if not path.is_file():
        raise UserError(f"--model.image_weights must be none, imagenet or a file; there is no file {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds of errors for damaged files
        raise UserError(f"{path} contains no weights that can be read safely: {error}") from error
    tensors = (
        {key: value for key, value in state.items() if isinstance(value, Tensor)} if isinstance(state, dict) else {}
    )
    if not tensors:
        content = (
            f"a dict of {list_names(map(str, state))}" if isinstance(state, dict) and state else type(state).__name__
        )
        raise UserError(
            f"{path} is not a state dict (a dict of names and tensors); it contains {content}. Save the state dict "
            "alone: torch.save(model.state_dict(), FILE)."
        )
    return tensors
