"""VGG16 whose feature maps attend to a context map: the last one, or several."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

WIDTH = 512
GRID = 7
WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}
"""Channels after each of VGG16's five blocks; a block halves height and width."""
LAST = 5


class VGG16Encoder(nn.Module):
    """VGG16 (Simonyan & Zisserman 2015, configuration D) up to its 7×7 map, in torchvision's layout.

    Args:
        batch_norm: torchvision's ``vgg16_bn`` in place of ``vgg16``.

    Shape:
        - x: ``(I, 3, H, W)``, H and W at least 32
        - returns: ``(I, 512, 7, 7)``

    Raises:
        ValueError: images of another shape.
    """

    _gradient_checkpointing_func: Callable[..., Tensor]  # transformers sets it where it switches the flag on

    def __init__(self, batch_norm: bool = False):
        super().__init__()
        self.features = build_features(batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d(GRID)
        self.gradient_checkpointing = False
        self.ends = [0] + [number for number, layer in enumerate(self.features, 1) if isinstance(layer, nn.MaxPool2d)]

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, 0, LAST)

    def run(self, x: Tensor, after: int, upto: int) -> Tensor:
        """From the map after one block to the map after a later one, pooled to 7×7 after the last; 0 is the image."""
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
        """The layers of the blocks after one and up to another."""
        return self.features[self.ends[after] : self.ends[upto]]

    def work(self, image_size: int, after: int, upto: int) -> int:
        """Multiplications of the blocks after one and up to another, for a square image."""
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
    """Blocks after which there is attention, in order."""
    if not levels or len(set(levels)) < len(levels) or not set(levels) <= set(range(2, LAST + 1)):
        raise ValueError(f"levels must be some of 2, 3, 4 and 5, each once, got {list(levels)}.")
    return tuple(sorted(levels))


def build_features(batch_norm: bool) -> nn.Sequential:
    """VGG16's convolutions with torchvision's initialisation."""
    features = make_layers(cfgs["D"], batch_norm=batch_norm)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
    return features
