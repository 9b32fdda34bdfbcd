"""The classes of the article: VGG16 with cross-attention after the last block, or after several blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import attention, check_sequences
from models.attention_kinds import build_attention
from models.fusion import CrossAttentionFusion
from models.vgg import GRID, LAST, WIDTH, WIDTHS, VGG16Encoder, check_levels


class CrossAttentionLayer(nn.Module):
    """Single-head cross-attention from a primary sequence to a context sequence.

    Args:
        embed_dim: width D of both sequences.

    Shape:
        - x1: ``(B, N, D)`` primary sequence, which gives the queries
        - x2: ``(B, M, D)`` context sequence, which gives keys and values
        - context_mask: ``(B, M)`` bool, ``True`` on real context tokens, at least one per row
        - returns: ``(B, N, D)``; with ``output_attentions`` also the weights ``(B, N, M)``

    Raises:
        ValueError: a sequence that is not of shape ``(B, tokens, D)``.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.embed_dim = embed_dim
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Linear(embed_dim, embed_dim)
        self.value = nn.Linear(embed_dim, embed_dim)

    def forward(
        self, x1: Tensor, x2: Tensor, context_mask: Tensor | None = None, output_attentions: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        check_sequences(x1, x2, self.embed_dim)
        mask = None if context_mask is None else context_mask[:, None, :]
        output, weights = attention(self.query(x1), self.key(x2), self.value(x2), mask, output_attentions)
        return (output, weights) if weights is not None else output


class VGG16WithCrossAttention(VGG16Encoder):
    """VGG16 with cross-attention after its last pooling layer.

    ``features`` and ``classifier`` have torchvision's layout, so its state dicts load unchanged. With those weights and
    before any training, the logits equal torchvision's, with or without a context.

    Args:
        num_classes: number of classes C.
        num_heads: number of attention heads, a divisor of 512.
        batch_norm: use torchvision's ``vgg16_bn`` instead of ``vgg16``.
        hidden_size: size of the classifier's two hidden layers.
        dropout: probability of the classifier's two dropout layers, in [0, 1).

    Shape:
        - x: ``(B, 3, H, W)``, H and W at least 32
        - context_feature: ``(B, 512, h, w)`` of any h and w, average-pooled to 7×7; ``None`` gives plain VGG16
        - returns: logits ``(B, C)``

    Raises:
        UserError: heads that do not divide 512.
        ValueError: a context of another width, or a number of contexts that differs from the number of images.
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
        """Fuse the map ``(B, 512, 7, 7)`` with the context; on request also return weights ``(B, H, 49, 49)``."""
        return self.cross_attention(feature_map, pool_context(context_feature, len(feature_map)), output_attentions)


class MultiLevelCrossAttentionVGG(VGG16Encoder):
    """VGG16 with cross-attention after several of its blocks.

    Each level normalizes the context itself and projects it if the map is not 512 wide. ``features`` and ``classifier``
    have torchvision's layout and start as VGG16 exactly, as in `VGG16WithCrossAttention`. At 224 px the maps after
    blocks 2, 3, 4 and 5 have 3,136, 784, 196 and 49 positions.

    Args:
        num_classes: number of classes C.
        levels: blocks followed by cross-attention, a subset of 2 (width 128), 3 (256), 4 and 5 (512).
        num_heads: number of heads of each cross-attention, a divisor of the widths.
        kind: kind of attention, one of `models.attention_kinds.KINDS`.
        batch_norm, hidden_size, dropout: as in `VGG16WithCrossAttention`.

    Shape:
        - x: ``(B, 3, H, W)``, H and W at least 32
        - context_feature: ``(B, 512, h, w)`` of any h and w, average-pooled to 7×7; ``None`` gives plain VGG16
        - returns: logits ``(B, C)``

    Raises:
        UserError: levels that are not a subset of 2 to 5, heads that do not divide a width, or an unknown kind.
        ValueError: a context of another width, or a number of contexts that differs from the number of images.
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
        """The logits and, on request, the attention weights ``(B, H, N, 49)`` of each level."""
        context = None if context_feature is None else pool_context(context_feature, len(x))
        done = 0  # blocks that x has passed
        attentions: list[Tensor] = []
        for level in self.levels:
            x, done = self.run(x, done, level), level
            if context is not None:
                x, weights = self.cross_attentions[str(level)](x, context, output_attentions)
                attentions += [] if weights is None else [weights]
        logits = self.classifier(torch.flatten(self.run(x, done, LAST), 1))
        return logits, attentions


def pool_context(context_feature: Tensor, num_images: int) -> Tensor:
    """Average-pool context maps ``(B, 512, h, w)``, one per image, to 7×7."""
    if context_feature.dim() != 4 or context_feature.shape[1] != WIDTH:
        raise ValueError(
            f"context_feature must be (batch, {WIDTH}, h, w), got {tuple(context_feature.shape)}. "
            f"Project it to {WIDTH} channels first, for example with models.ContextGrid."
        )
    if len(context_feature) != num_images:
        raise ValueError(
            f"Each image needs one context, got {num_images} images and {len(context_feature)} contexts. "
            "ImageTextClassifier shares images and texts through image_index and text_index."
        )
    return F.adaptive_avg_pool2d(context_feature, GRID)


def build_classifier(in_features: int, hidden_size: int, num_classes: int, dropout: float) -> nn.Sequential:
    """VGG16's classifier with torchvision's layer names and initialization, for any hidden size."""
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
