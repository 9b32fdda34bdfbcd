"""From the fused map to one answer."""

from torch import Tensor, nn
from torch.nn import functional as F

from models.fusion import PositionNorm, place_encoding


class PositionClassifier(nn.Module):
    """Let every position of a map give an answer, and a learned gate say how much each position counts.

    After cross-attention a position knows what it shows, where it is and what is asked. One small network, shared
    by all positions, gives each a distribution over the classes and a weight; the answer is their mixture (mixture
    of experts, Jacobs et al. 1991). The batch norm takes away what all positions have in common, which in an
    untrained network is nearly all there is (docs/results.md).

    Args:
        dim: channels D of the map.
        hidden_size: width of the hidden layer.
        num_labels: C.
        dropout: on the hidden layer before the classes, in [0, 1).
        multi_label: each class applies or not, by itself: every position gives each a probability, and so does their
            mixture.

    Shape:
        - features: ``(B, D, h, w)``
        - returns: logits ``(B, C)``, of which softmax, or with ``multi_label`` sigmoid, gives the probabilities; and
          the log-probabilities of the pairs of class and position that these sum up ``(B, C, h, w)``, both float32;
          softmax over the positions of one class gives the share of each position in it
    """

    def __init__(self, dim: int, hidden_size: int, num_labels: int, dropout: float, multi_label: bool = False):
        super().__init__()
        self.multi_label = multi_label
        self.norm = PositionNorm(dim)
        self.hidden = nn.Linear(dim, hidden_size)
        self.gate = nn.Linear(hidden_size, 1)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        height, width = features.shape[2:]
        positions = self.norm(features.flatten(2).transpose(1, 2))
        hidden = F.relu(self.hidden(positions + place_encoding(height, width, positions)))
        gate = self.gate(hidden).float().log_softmax(dim=1)
        scores = self.output(self.dropout(hidden)).float()
        joint = gate + (F.logsigmoid(scores) if self.multi_label else scores.log_softmax(dim=2))
        logits = joint.logsumexp(dim=1)
        if self.multi_label:
            logits = logits - (gate + F.logsigmoid(-scores)).logsumexp(dim=1)
        return logits, joint.transpose(1, 2).unflatten(2, (height, width))
