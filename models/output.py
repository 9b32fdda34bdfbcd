"""What the classifier gives."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class ImageTextOutput(ModelOutput):
    """Output of `ImageTextClassifier`.

    Attributes:
        loss: where labels were given, the mean cross-entropy over the rows whose label is not -100, or over rows and
            classes where each class applies by itself.
        logits: ``(B, C)``.
        attentions: weights of image positions over context slots ``(B, H, N, 49)``, one a level, on request; they
            add up to 1 over the slots, or to less where positions attend to positions too (``self``); ``None``
            where the fusion has no attention.
        gates: ``(B, levels)`` where the model is gated: the probability that each fusion runs in training mode, else
            1 where it ran and 0 where not.
        work: ``(B,)`` where the model is gated: share of the work behind gates that is done, see `models.gate`.
        token_weights: weights of text tokens in the context slots ``(B, 49, L)``, on request; the product of the
            two is the attention of each position to each token.
        position_weights: share of each image position in the probability of each class ``(B, C, h, w)``, on request;
            they sum to 1 over the positions.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    attentions: tuple[Tensor, ...] | None = None
    gates: Tensor | None = None
    work: Tensor | None = None
    token_weights: Tensor | None = None
    position_weights: Tensor | None = None
