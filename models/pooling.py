"""From the fused map to one answer."""

from torch import Tensor, nn
from torch.nn import functional as F

from models.fusion import place_encoding


class PositionClassifier(nn.Module):
    """Classify what each position of a map shows, and weigh the positions by a learned gate.

    After cross-attention a position knows what it shows, where it is and what is asked; the gate picks the positions that matter
    and one network, shared by all, reads the answer there (attention pooling, Ilse et al. 2018, section 2.4). A
    flattened map needs a reader of its own for every position, and stalls where text and image must be compared
    (docs/results.md).

    Args:
        dim: channels D of the map.
        hidden_size: width of the reader's hidden layer.
        num_labels: C.
        dropout: on the pooled hidden layer, in [0, 1).

    Shape:
        - features: ``(B, D, h, w)``
        - returns: logits ``(B, C)`` and the weight of each position ``(B, h, w)``, which sum to 1
    """

    def __init__(self, dim: int, hidden_size: int, num_labels: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 1)
        self.hidden = nn.Linear(dim, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        positions = self.norm(features.flatten(2).transpose(1, 2))
        height, width = features.shape[2:]
        positions = positions + place_encoding(height, width, positions)
        weights = self.gate(positions).softmax(dim=1)
        pooled = (weights.transpose(1, 2) @ F.relu(self.hidden(positions))).squeeze(1)
        return self.output(self.dropout(pooled)), weights.squeeze(-1).unflatten(1, features.shape[2:])
