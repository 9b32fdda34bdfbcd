"""VGG16 as an image encoder that can be run block by block."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from data.errors import UserError

WIDTH = 512
"""Channels of the last map and of the context."""
GRID = 7
"""Height and width of the last map and of the context."""
WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}
"""Channels after each of VGG16's five blocks; each block halves height and width."""
LAST = 5
"""The last block."""


class VGG16Encoder(nn.Module):
    """VGG16 (Simonyan & Zisserman 2015, configuration D) up to its 7×7 map, in torchvision's layout.

    Args:
        batch_norm: use torchvision's ``vgg16_bn`` instead of ``vgg16``.

    Shape:
        - x: ``(I, 3, H, W)``, H and W at least 32
        - returns: ``(I, 512, 7, 7)``

    Raises:
        ValueError: images of another shape.
    """

    _gradient_checkpointing_func: Callable[..., Tensor]  # set by transformers together with gradient_checkpointing

    def __init__(self, batch_norm: bool = False):
        super().__init__()
        self.features = build_features(batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d(GRID)
        self.gradient_checkpointing = False
        self.ends = [0] + [number for number, layer in enumerate(self.features, 1) if isinstance(layer, nn.MaxPool2d)]

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, 0, LAST)

    def run(self, x: Tensor, after: int, upto: int) -> Tensor:
        """Run the blocks from ``after`` + 1 to ``upto``; the map after the last block is pooled to 7×7.

        Args:
            x: the map after block ``after``; the image if that is 0.
        """
        if after == 0 and (x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 32):
            raise ValueError(
                f"Images must be (batch, 3, height, width) with sides of at least 32, got {tuple(x.shape)}."
            )
        for block in range(after, upto):
            layers = self.blocks(block, block + 1)
            recompute = self.gradient_checkpointing and self.training
            x = self._gradient_checkpointing_func(layers, x) if recompute else layers(x)
        return self.avgpool(x) if after < upto == LAST else x

    def blocks(self, after: int, upto: int) -> nn.Sequential:
        """The layers of the blocks from ``after`` + 1 to ``upto``."""
        return self.features[self.ends[after] : self.ends[upto]]

    def stages(self) -> list[nn.Module]:
        """The last layer of each block before its pooling, whose output is the map of the block."""
        return [self.features[end - 2] for end in self.ends[1:]]

    def work(self, image_size: int, after: int, upto: int) -> int:
        """Multiplications of the blocks from ``after`` + 1 to ``upto`` for a square image."""
        sides = {block: image_size // 2**block for block in range(after, upto)}
        layers = {block: self.blocks(block, block + 1) for block in sides}
        return sum(
            sides[block] ** 2 * layer.weight.numel()
            for block in sides
            for layer in layers[block]
            if isinstance(layer, nn.Conv2d)
        )

    def width(self, level: int = LAST) -> int:
        """Channels of the map after a block."""
        return WIDTHS[level]

    def side(self, image_size: int, level: int = LAST) -> int:
        """Height and width of the map of a square image after a block."""
        return GRID if level == LAST else image_size // 2**level


def check_levels(levels: Sequence[int]) -> tuple[int, ...]:
    """The levels in ascending order.

    Raises:
        UserError: levels that are not a subset of 2 to 5, or that are repeated.
    """
    if not levels or len(set(levels)) < len(levels) or not set(levels) <= set(range(2, LAST + 1)):
        raise UserError(f"levels must be one or more of 2, 3, 4 and 5, each once, got {list(levels)}.")
    return tuple(sorted(levels))


def build_features(batch_norm: bool) -> nn.Sequential:
    """The convolutional layers of VGG16 with torchvision's initialization."""
    features = make_layers(cfgs["D"], batch_norm=batch_norm)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
    return features
