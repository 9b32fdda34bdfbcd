"""Text tokens of any number become the 7×7 context that the image attends to."""

import torch
from torch import Tensor, nn

from models.attention import MultiHeadCrossAttention
from models.vgg import GRID, WIDTH


class ContextGrid(nn.Module):
    """Turn token features of any length into the 7×7 context the image attends to.

    Tokens are projected to 512 and pooled into 49 slots. ``average`` spreads the real tokens over the slots in
    reading order (adaptive average pooling: neighbours are averaged where there are more than 49, repeated
    where there are fewer); ``queries`` lets 49 learned queries attend over them (the pooling by attention of
    Set Transformer, Lee et al. 2019, section 3.2). Padding never enters, so a text gives the same grid in any
    batch.

    Args:
        hidden_size: width of the token features.
        pooling: ``average`` or ``queries``.

    Shape:
        - tokens: ``(B, L, hidden_size)``
        - mask: ``(B, L)`` bool, ``True`` on real tokens, at least one a row
        - returns: the grid ``(B, 512, 7, 7)`` and, where they are needed, the weights ``(B, 49, L)`` of tokens in
          slots, each row of which sums to 1 and is zero on padding, else ``None``

    Raises:
        ValueError: an unknown pooling, or a row without a real token; on a GPU, where to look would be to wait for it,
            such a row becomes NaN.
    """

    def __init__(self, hidden_size: int, pooling: str = "average"):
        super().__init__()
        if pooling not in ("average", "queries"):
            raise ValueError(f"pooling must be 'average' or 'queries', got {pooling!r}.")
        self.projection = nn.Linear(hidden_size, WIDTH)
        self.pooling = pooling
        if pooling == "queries":
            self.queries = nn.Parameter(torch.randn(GRID * GRID, WIDTH) * WIDTH**-0.5)
            self.attention = MultiHeadCrossAttention(WIDTH)

    def forward(self, tokens: Tensor, mask: Tensor, need_weights: bool = True) -> tuple[Tensor, Tensor | None]:
        if mask.device.type == "cpu" and not torch.compiler.is_exporting():
            refuse_empty(mask)
        projected = self.projection(tokens)
        if self.pooling == "queries":
            queries = self.queries.expand(tokens.shape[0], -1, -1)
            slots = self.attention(queries, projected, mask, output_attentions=need_weights)
            slots, weights = slots if need_weights else (slots, None)
            weights = None if weights is None else weights.mean(dim=1)
        else:
            weights = average_weights(mask, GRID * GRID).to(projected.dtype)
            slots = weights @ projected
        return slots.transpose(1, 2).unflatten(2, (GRID, GRID)), weights if need_weights else None


def refuse_empty(mask: Tensor) -> None:
    """Raise a ``ValueError`` that names the rows without a real token, if there are any."""
    empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"Every text needs at least one real token; rows {empty[:10]} of the batch have none.")


def average_weights(mask: Tensor, num_slots: int) -> Tensor:
    """Weights ``(B, num_slots, L)`` of adaptive average pooling over the real tokens of each row.

    Slot s of a row with n real tokens averages tokens ⌊s·n/S⌋ up to ⌈(s+1)·n/S⌉, as
    ``torch.nn.AdaptiveAvgPool1d`` does; here n differs by row and the padding may stand on either side.
    """
    rank = (mask.cumsum(dim=1) - 1)[:, None, :]
    count = mask.sum(dim=1)[:, None, None]
    slot = torch.arange(num_slots, device=mask.device)[None, :, None]
    start = slot * count // num_slots
    end = ((slot + 1) * count + num_slots - 1) // num_slots
    chosen = (rank >= start) & (rank < end) & mask[:, None, :]
    return chosen / (end - start)
