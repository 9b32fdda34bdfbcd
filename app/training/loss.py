"""The training loss: cross-entropy with row and class weights."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from app.settings import TrainSettings
from data import LabelFormat
from data.errors import UserError


class RowLoss(nn.Module):
    """Weighted sum over rows of cross-entropy, or of binary cross-entropy averaged over classes.

    Args:
        multi_label: use binary cross-entropy.
        class_weight: weight of each class ``(C,)``; for ``multi_label`` the weight of its positives.
        label_smoothing: share of the target that is spread over all classes, in [0, 1].
    """

    class_weight: Tensor | None

    def __init__(self, multi_label: bool = False, class_weight: Tensor | None = None, label_smoothing: float = 0.0):
        super().__init__()
        self.multi_label = multi_label
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weight", class_weight)

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """The loss as a scalar, from logits ``(B, C)``, labels ``(B,)`` or ``(B, C)`` and weights ``(B,)``."""
        if self.multi_label:
            target = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
            losses = F.binary_cross_entropy_with_logits(logits, target, pos_weight=self.class_weight, reduction="none")
            return (losses.mean(dim=1) * weights).sum()
        losses = F.cross_entropy(
            logits, labels, self.class_weight, label_smoothing=self.label_smoothing, reduction="none"
        )
        return (losses * weights).sum()

    def count(self, labels: Tensor, weights: Tensor) -> Tensor:
        """The sum of row weights times class weights, by which the loss is divided for its mean."""
        if self.class_weight is None or self.multi_label:
            return weights.sum()
        return (self.class_weight.cpu()[labels] * weights).sum()


def build_loss(options: TrainSettings, label2id: dict[str, int], labels: Sequence[str], form: LabelFormat) -> RowLoss:
    """The loss for training rows with these labels.

    Raises:
        UserError: class weights with labels of several annotators.
    """
    weight = None
    if options.class_weights == "balanced":
        if form.type == "annotators":
            raise UserError("--train.class_weights balanced needs --data.label_type single or multi, not annotators.")
        counts = class_counts(labels, label2id, form)
        if form.type == "multi":
            weight = torch.tensor((len(labels) - counts) / np.maximum(counts, 1), dtype=torch.float32).clamp(min=1e-3)
        else:
            weight = torch.tensor(len(labels) / (len(counts) * counts), dtype=torch.float32)
    return RowLoss(form.type == "multi", weight, options.label_smoothing)


def class_counts(labels: Sequence[str], label2id: dict[str, int], form: LabelFormat) -> np.ndarray:
    """Number of rows of each class ``(C,)``."""
    counts = form.count(labels)
    return np.array([counts[name] for name in label2id], dtype=np.float64)


def balancing_weights(labels: Sequence[str], label2id: dict[str, int], form: LabelFormat) -> np.ndarray:
    """Sampling weight of each row ``(n,)`` for balanced classes: the inverse frequency of its class.

    Of several classes the rarest counts, of annotators' answers the most frequent.
    """
    counts = form.count(labels)
    most = max(counts.values())

    def weigh(label: str) -> float:
        return 1 / min((counts[name] for name in form.main_names(label) if name in label2id), default=most)

    return np.array([weigh(label) for label in labels])
