"""Image encoders that contexts have of their own: another network of a second picture, or of the same one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from data.errors import UserError
from models.backbone import BackboneEncoder, backbone_config, backbone_statistics, is_backbone_type
from models.image_weights import load_image_weights
from models.processor import IMAGENET_MEAN, IMAGENET_STD
from models.settings import ModelSettings
from models.vgg import LAST, VGG16Encoder

VGG16 = "vgg16"
"""Name of the one image encoder that is not a transformers backbone."""
INSTEAD = ", or let the context have an encoder with random weights (encoder: resnet)"
"""Suggestion when a pretrained encoder of a context cannot be loaded."""


class PictureEncoder(nn.Module):
    """An image encoder beside the main one, for pictures that are normalized for the main one.

    Pictures are normalized again: with the mean and the standard deviation of this encoder.

    Args:
        spec: field ``encoder`` of an entry of ``config.contexts``: ``config`` of the backbone, or ``None`` and
            ``batch_norm`` for VGG16; and ``scale`` and ``shift`` per channel, see `renormalization`.

    Shape:
        - x: ``(K, 3, H, W)``
        - returns: ``(K, D, h, w)``
    """

    def __init__(self, spec: dict[str, Any]):
        super().__init__()
        self.scale, self.shift = spec["scale"], spec["shift"]
        self.network: VGG16Encoder | BackboneEncoder
        if spec["config"] is None:
            self.network = VGG16Encoder(spec["batch_norm"])
        else:
            rest = {name: value for name, value in spec["config"].items() if name != "model_type"}
            self.network = BackboneEncoder(AutoConfig.for_model(spec["config"]["model_type"], **rest))

    def extra_repr(self) -> str:
        return f"scale={self.scale}, shift={self.shift}"

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = (torch.tensor(part, device=x.device, dtype=x.dtype) for part in (self.scale, self.shift))
        return self.network.run(x * scale[:, None, None] + shift[:, None, None], 0, LAST)

    def run(self, x: Tensor, after: int, upto: int) -> Tensor:
        """Run the whole network, the only part there is; as other image encoders are run."""
        return self(x)

    def blocks(self, after: int, upto: int) -> nn.Module:
        """The whole encoder, with its normalization."""
        return self

    def width(self) -> int:
        """Channels of the map."""
        return self.network.width(LAST)

    def load(self, name: str, settings: ModelSettings) -> None:
        """Load the initial weights of the encoder with this name; those of VGG16 are ``settings.image_weights``.

        Raises:
            UserError: weights that cannot be loaded, or an encoder that takes no pictures of ``settings.image_size``.
        """
        if isinstance(self.network, VGG16Encoder):
            load_image_weights(self.network, settings.image_weights, settings.batch_norm)
        elif not is_backbone_type(name):
            self.network.load_pretrained(name, instead=INSTEAD)
        try:
            self.network.side(settings.image_size)
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"The encoder {name} of a context takes no pictures of {settings.image_size} pixels "
                f"(--model.image_size): {error}"
            ) from error


def picture_encoder(name: str, settings: ModelSettings, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """The field ``encoder`` of an entry of ``contexts``.

    Args:
        name: as those of ``settings.image_encoder``.
        mean, std: with which pictures are normalized for the main image encoder.

    Raises:
        UserError: a configuration or statistics that cannot be loaded.
    """
    if name == VGG16:
        return {"config": None, "batch_norm": settings.batch_norm, **renormalization(mean, std)}
    statistics = backbone_statistics(name, instead=INSTEAD)
    return {"config": backbone_config(name, instead=INSTEAD).to_dict(), **renormalization(mean, std, **statistics)}


def is_pretrained(name: str, settings: ModelSettings) -> bool:
    """Whether the encoder with this name has pretrained weights."""
    return settings.image_weights != "none" if name == VGG16 else not is_backbone_type(name)


def renormalization(
    mean: Sequence[float],
    std: Sequence[float],
    image_mean: Sequence[float] = IMAGENET_MEAN,
    image_std: Sequence[float] = IMAGENET_STD,
) -> dict[str, list[float]]:
    """``scale`` and ``shift`` of each channel that replace one normalization by another.

    Args:
        mean, std: with which the pictures are normalized.
        image_mean, image_std: with which they shall be normalized.
    """
    channels = list(zip(mean, std, image_mean, image_std, strict=True))
    return {
        "scale": [old_std / new_std for _, old_std, _, new_std in channels],
        "shift": [(old_mean - new_mean) / new_std for old_mean, _, new_mean, new_std in channels],
    }
