"""VGG16 whose feature maps attend to a context map: the last one, or several."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from models.attention_kinds import build_attention
from models.fusion import CrossAttentionFusion

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


class VGG16WithCrossAttention(VGG16Encoder):
    """VGG16 with cross-attention after its last pooling layer.

    ``features`` and ``classifier`` have torchvision's layout, so its state dicts load unchanged; with these
    weights and before any training the logits equal torchvision's, with or without a context.

    Args:
        num_classes: C, outputs of the classifier.
        num_heads: heads of the cross-attention, a divisor of 512.
        batch_norm: torchvision's ``vgg16_bn`` in place of ``vgg16``.
        hidden_size: width of the classifier's two hidden layers.
        dropout: probability of the classifier's two dropout layers, in [0, 1).

    Shape:
        - x: ``(B, 3, H, W)``, H and W at least 32
        - context_feature: ``(B, 512, h, w)`` of any h and w, averaged to 7×7; ``None`` is plain VGG16
        - returns: logits ``(B, C)``

    Raises:
        ValueError: a context of another width, or another number of contexts than of images.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        num_heads: int = 8,
        batch_norm: bool = False,
        hidden_size: int = 4096,
        dropout: float = 0.5,
    ):
        super().__init__(batch_norm)
        self.cross_attention = CrossAttentionFusion(WIDTH, num_heads)
        self.classifier = build_classifier(WIDTH * GRID * GRID, hidden_size, num_classes, dropout)

    def forward(self, x: Tensor, context_feature: Tensor | None = None) -> Tensor:
        feature_map = super().forward(x)
        if context_feature is not None:
            feature_map, _ = self.fuse(feature_map, context_feature)
        return self.classifier(torch.flatten(feature_map, 1))

    def fuse(
        self, feature_map: Tensor, context_feature: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Let the map ``(B, 512, 7, 7)`` attend to the context; also its weights ``(B, H, 49, 49)`` on request."""
        return self.cross_attention(feature_map, pool_context(context_feature, len(feature_map)), output_attentions)


class MultiLevelCrossAttentionVGG(VGG16Encoder):
    """VGG16 with cross-attention after several of its blocks, each with its own norm of the context, and with a context
    block that projects it where the map has another width than 512.

    ``features`` and ``classifier`` have torchvision's layout, and it starts as VGG16 exactly, as
    `VGG16WithCrossAttention` does. At 224 px blocks 2, 3, 4 and 5 have 3,136, 784, 196 and 49 positions.

    Args:
        num_classes: C, outputs of the classifier.
        levels: blocks after which the map attends to the context, of 2 (width 128), 3 (256), 4 and 5 (512).
        num_heads: heads of each cross-attention, a divisor of 128.
        kind: name of the attention, one of `models.attention_kinds.KINDS`.
        batch_norm, hidden_size, dropout: as of `VGG16WithCrossAttention`.

    Shape:
        - x: ``(B, 3, H, W)``, H and W at least 32
        - context_feature: ``(B, 512, h, w)`` of any h and w, averaged to 7×7; ``None`` is plain VGG16
        - returns: logits ``(B, C)``

    Raises:
        ValueError: levels that are not a subset of 2 to 5, a context of another width, or another number of contexts
            than of images.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        levels: Sequence[int] = (3, 4, 5),
        num_heads: int = 8,
        kind: str = "full",
        batch_norm: bool = False,
        hidden_size: int = 4096,
        dropout: float = 0.5,
    ):
        super().__init__(batch_norm)
        self.levels = check_levels(levels)
        self.cross_attentions = nn.ModuleDict(
            {
                str(level): CrossAttentionFusion(
                    WIDTHS[level], num_heads, WIDTH, kind=build_attention(kind, GRID * GRID)
                )
                for level in self.levels
            }
        )
        self.classifier = build_classifier(WIDTH * GRID * GRID, hidden_size, num_classes, dropout)

    def forward(self, x: Tensor, context_feature: Tensor | None = None) -> Tensor:
        return self.attend(x, context_feature)[0]

    def attend(
        self, x: Tensor, context_feature: Tensor | None, output_attentions: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits, and on request the weights ``(B, H, N, 49)`` of each level."""
        context = None if context_feature is None else pool_context(context_feature, len(x))
        done = 0
        attentions: list[Tensor] = []
        for level in self.levels:
            x, done = self.run(x, done, level), level
            if context is not None:
                x, weights = self.cross_attentions[str(level)](x, context, output_attentions)
                attentions += [] if weights is None else [weights]
        logits = self.classifier(torch.flatten(self.run(x, done, LAST), 1))
        return logits, attentions


def check_levels(levels: Sequence[int]) -> tuple[int, ...]:
    """Blocks after which there is attention, in order."""
    if not levels or len(set(levels)) < len(levels) or not set(levels) <= set(range(2, LAST + 1)):
        raise ValueError(f"levels must be some of 2, 3, 4 and 5, each once, got {list(levels)}.")
    return tuple(sorted(levels))


def pool_context(context_feature: Tensor, number: int) -> Tensor:
    """Context maps of any size, one for each of a number of images, averaged to 7×7."""
    if context_feature.dim() != 4 or context_feature.shape[1] != WIDTH:
        raise ValueError(
            f"context_feature must be (batch, {WIDTH}, h, w), got {tuple(context_feature.shape)}; "
            "project it to 512 channels first (models.ContextGrid does)."
        )
    if len(context_feature) != number:
        raise ValueError(
            f"Each image needs a context of its own, got {number} images and {len(context_feature)} contexts; "
            "ImageTextClassifier shares images and texts by image_index and text_index."
        )
    return F.adaptive_avg_pool2d(context_feature, GRID)


def build_features(batch_norm: bool) -> nn.Sequential:
    """VGG16's convolutions with torchvision's initialisation."""
    features = make_layers(cfgs["D"], batch_norm=batch_norm)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
    return features


def build_classifier(in_features: int, hidden_size: int, num_classes: int, dropout: float) -> nn.Sequential:
    """VGG16's classifier, with torchvision's layer names and initialisation, for any hidden width."""
    classifier = nn.Sequential(
        nn.Linear(in_features, hidden_size),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(hidden_size, hidden_size),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(hidden_size, num_classes),
    )
    for layer in classifier:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
    return classifier
