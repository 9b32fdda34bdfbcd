"""The classifier that classifies each position of the fused map and mixes the results."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.fusion import PositionNorm, position_encoding

MAX_VALUES = 2**22
"""Scores of rows, positions and classes that a training step holds at once, 16 MiB in float32. With more, rows are
classified in chunks whose scores are computed again in the backward pass."""


class PositionClassifier(nn.Module):
    """Classify every position of a map and mix the results by learned weights (mixture of experts, Jacobs et al. 1991).

    After cross-attention, the features of a position encode what it shows, where it is, and the text. One small
    network, shared by all positions, gives each position a distribution over the classes and a weight; the output is
    the weighted mean of the distributions. The batch norm removes what all positions have in common, which is nearly
    everything in an untrained network (docs/results.md).

    With ``product`` the hidden layer is multiplied by a second projection of the position (ReGLU, Shazeer 2020): a unit
    joins what the image shows there with what the text asks for, which a sum of the two does not.

    Args:
        dim: channels D of the map.
        hidden_size: size of the hidden layer.
        num_labels: number of classes C.
        dropout: dropout before the output layer, in [0, 1).
        multi_label: give each class an independent probability (sigmoid) instead of a distribution (softmax).
        product: multiply the hidden layer by a second projection.

    Shape:
        - features: ``(B, D, h, w)``
        - context: ignored; the fused map holds it
        - returns: logits ``(B, C)``, whose softmax (sigmoid with ``multi_label``) gives the probabilities; and the
          joint log-probabilities of class and position ``(B, C, h, w)``, whose softmax over the positions is the share
          of each position in the probability of a class; ``None`` without ``output_joint``. Both are float32.
    """

    def __init__(
        self,
        dim: int,
        hidden_size: int,
        num_labels: int,
        dropout: float,
        multi_label: bool = False,
        product: bool = False,
    ):
        super().__init__()
        self.multi_label = multi_label
        self.norm = PositionNorm(dim)
        self.hidden = nn.Linear(dim, hidden_size)
        self.factor = nn.Linear(dim, hidden_size) if product else None
        self.gate = nn.Linear(hidden_size, 1)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(
        self, features: Tensor, context: Tensor | None = None, output_joint: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        height, width = features.shape[2:]
        positions = self.norm(features.flatten(2).transpose(1, 2))
        positions = positions + position_encoding(height, width, positions)
        hidden = F.relu(self.hidden(positions))
        if self.factor is not None:
            hidden = hidden * self.factor(positions)
        gate, hidden = self.gate(hidden).float().log_softmax(dim=1), self.dropout(hidden)
        values_of_row = height * width * self.output.out_features
        if self.training and not output_joint and len(hidden) * values_of_row > MAX_VALUES:
            chunks = zip(*(x.split(max(1, MAX_VALUES // values_of_row)) for x in (hidden, gate)), strict=True)
            return torch.cat([checkpoint(self.mix, *chunk, use_reentrant=False)[0] for chunk in chunks]), None
        logits, joint = self.mix(hidden, gate)
        return logits, joint.transpose(1, 2).unflatten(2, (height, width)) if output_joint else None

    def mix(self, hidden: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, C)`` and joint log-probabilities ``(B, N, C)`` of positions with log-weights ``(B, N, 1)``."""
        scores = self.output(hidden).float()
        joint = gate + (F.logsigmoid(scores) if self.multi_label else scores.log_softmax(dim=2))
        logits = joint.logsumexp(dim=1)
        if self.multi_label:
            logits = logits - (gate + F.logsigmoid(-scores)).logsumexp(dim=1)
        return logits, joint
