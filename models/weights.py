"""Starting weights of VGG16: torchvision's ImageNet weights, or a file in torchvision's layout."""

from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import VGG16_BN_Weights, VGG16_Weights

from models.vgg import VGG16Encoder


def load_image_weights(encoder: VGG16Encoder, weights: str, batch_norm: bool) -> None:
    """Load the ``features`` of a whole torchvision VGG16; the ImageNet classifier is left behind.

    Args:
        weights: ``none``, ``imagenet`` or a file.

    Raises:
        ValueError: no connection, no such file, or a file of another network.
    """
    if weights == "none":
        return
    state = imagenet_state(batch_norm) if weights == "imagenet" else file_state(Path(weights))
    features = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    expected = encoder.features.state_dict()
    if {k: v.shape for k, v in features.items()} != {k: v.shape for k, v in expected.items()}:
        missing, surplus = sorted(expected.keys() - features.keys()), sorted(features.keys() - expected.keys())
        raise ValueError(
            f"{weights} does not hold the features of torchvision's {'vgg16_bn' if batch_norm else 'vgg16'}: missing "
            f"{missing[:3]}, surplus {surplus[:3]}. Does --model.batch_norm {str(batch_norm).lower()} fit this file?"
        )
    encoder.features.load_state_dict(features)


def imagenet_state(batch_norm: bool) -> dict[str, Tensor]:
    weights = VGG16_BN_Weights.IMAGENET1K_V1 if batch_norm else VGG16_Weights.IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"Could not download torchvision's ImageNet weights ({error}). Without a connection, fetch {weights.url} "
            "elsewhere and give the file with --model.image_weights FILE, or start from random weights with "
            "--model.image_weights none."
        ) from error


def file_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"model.image_weights is none, imagenet or a file; there is no file {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise whatever they stumble over
        raise ValueError(f"{path} holds no weights that can be read safely: {error}") from error
