"""VGG16 whose last feature map attends to a context map."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from models.fusion import CrossAttentionFusion

WIDTH = 512
GRID = 7


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

    def __init__(self, batch_norm: bool = False):
        super().__init__()
        self.features = build_features(batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d(GRID)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 32:
            raise ValueError(
                f"Images must be (batch, 3, height, width) with sides of at least 32, got {tuple(x.shape)}."
            )
        return self.avgpool(self.features(x))


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
        - x: ``(I, 3, H, W)``, H and W at least 32
        - context_feature: ``(B, 512, h, w)`` of any h and w, averaged to 7×7; ``None`` is plain VGG16
        - returns: logits ``(B, C)``; B = I without a context
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
        if context_feature.dim() != 4 or context_feature.shape[1] != WIDTH:
            raise ValueError(
                f"context_feature must be (batch, {WIDTH}, h, w), got {tuple(context_feature.shape)}; "
                "project it to 512 channels first (models.ContextGrid does)."
            )
        return self.cross_attention(feature_map, F.adaptive_avg_pool2d(context_feature, GRID), output_attentions)


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
