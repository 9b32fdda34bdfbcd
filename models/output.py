"""The output of the classifier."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class ImageTextOutput(ModelOutput):
    """Output of `models.ImageTextClassifier`.

    Attributes:
        loss: with labels, the mean cross-entropy over the rows whose label is not -100; for ``multi`` the mean binary
            cross-entropy over rows and classes.
        logits: ``(B, C)``.
        attentions: on request, the weights of image positions over context slots ``(B, H, N, 49)`` of each level. They
            sum to 1 over the slots, or to less for the fusion ``self``, where positions also attend to positions.
            ``None`` if the fusion has no attention.
        gates: of a gated model ``(B, levels)``: in training mode the probability that each fusion runs, in evaluation
            mode 1 if it ran and 0 if not.
        work: of a gated model ``(B,)``: the share of the gated work that was done, see `models.gate.gated_work`.
        token_weights: on request, the weights of text tokens in the context slots ``(B, 49, L)``. The product of
            ``attentions`` and ``token_weights`` is the attention of each position to each token.
        position_weights: on request, the share of each image position in the probability of each class
            ``(B, C, h, w)``; the shares of a class sum to 1.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    attentions: tuple[Tensor, ...] | None = None
    gates: Tensor | None = None
    work: Tensor | None = None
    token_weights: Tensor | None = None
    position_weights: Tensor | None = None
