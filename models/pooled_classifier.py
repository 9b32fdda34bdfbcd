"""The classifier that pools the positions of the fused map before it gives scores to the classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.fusion import PositionNorm, init_to_zero, position_encoding
from models.linear_probe import full_precision


class PooledClassifier(nn.Module):
    """Pool the positions of a map and classify the result, with direct terms for image and context.

    One small network, shared by all positions, gives each position hidden features and a weight. The pooled features
    are their weighted sum plus their mean, so that training starts as average pooling and learns where to look. Two
    more terms of the logits are linear in the mean of the map and in the mean of the context: what a linear classifier
    can learn, the network need not learn (wide and deep learning, Cheng et al. 2016). They start at zero.

    With few images it learns what concerns the whole picture better than `PositionClassifier`, and its memory does not
    grow with positions times classes (docs/results.md).

    Args:
        dim: channels D of the map.
        hidden_size: size of the hidden layer.
        num_labels: number of classes C.
        dropout: dropout before the output layers, in [0, 1).
        context_dim: channels of the context; ``None`` if the text is ignored.

    Shape:
        - features: ``(B, D, h, w)``
        - context: ``(B, context_dim)``, the mean of the context slots of each pair
        - returns: logits ``(B, C)``; and logarithms ``(B, C, h, w)`` whose softmax over the positions is the share of
          each position in the pooled features' evidence for a class; ``None`` without ``output_joint``. Both are
          float32.
    """

    def __init__(self, dim: int, hidden_size: int, num_labels: int, dropout: float, context_dim: int | None = None):
        super().__init__()
        self.norm = PositionNorm(dim)
        self.hidden = nn.Linear(dim, hidden_size)
        self.gate = nn.Linear(hidden_size, 1)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_labels)
        self.direct_image = nn.Linear(dim, num_labels)
        self.norm_context = None if context_dim is None else nn.LayerNorm(context_dim)
        self.direct_context = None if context_dim is None else nn.Linear(context_dim, num_labels)
        for layer in (self.gate, self.direct_image, self.direct_context):
            if layer is not None:
                init_to_zero(layer)

    def forward(self, features: Tensor, context: Tensor, output_joint: bool = True) -> tuple[Tensor, Tensor | None]:
        height, width = features.shape[2:]
        positions = self.norm(features.flatten(2).transpose(1, 2))
        hidden = F.relu(self.hidden(positions + position_encoding(height, width, positions)))
        weights = self.gate(hidden).float().softmax(dim=1) + 1 / (height * width)
        with full_precision(features.device.type):  # the sum of three terms in half precision would be too coarse
            dtype = self.output.weight.dtype
            pooled = (weights.transpose(1, 2).to(dtype) @ hidden.to(dtype))[:, 0]
            logits = self.output(self.dropout(pooled))
            logits = logits + self.direct_image(self.dropout(positions.to(dtype).mean(dim=1)))
            if self.norm_context is not None and self.direct_context is not None:
                logits = logits + self.direct_context(self.dropout(self.norm_context(context.to(dtype))))
        if not output_joint:
            return logits.float(), None
        shares = weights * F.linear(hidden, self.output.weight).float().relu()
        joint = shares.clamp(min=torch.finfo(torch.float32).tiny).log()
        return logits.float(), joint.transpose(1, 2).unflatten(2, (height, width))
