"""Pool text tokens of any number to the 7×7 context that the image attends to."""

import torch
from torch import Tensor, nn

from data.errors import UserError
from models.attention import MultiHeadCrossAttention
from models.vgg import GRID, WIDTH


class ContextGrid(nn.Module):
    """Pool token features of any length to the 7×7 context that the image attends to.

    Tokens are projected to width 512 and pooled to 49 slots. ``average`` is adaptive average pooling over the real
    tokens in their order: more than 49 tokens are averaged with their neighbours, fewer are repeated. ``queries`` is
    attention pooling by 49 learned queries (Set Transformer, Lee et al. 2019, section 3.2). Padding has no influence,
    so a text gives the same grid in any batch.

    Args:
        hidden_size: width of the token features.
        pooling: ``average`` or ``queries``.

    Shape:
        - tokens: ``(B, L, hidden_size)``
        - mask: ``(B, L)`` bool, ``True`` on real tokens, at least one per row
        - returns: the grid ``(B, 512, 7, 7)`` and, with ``need_weights``, the weights ``(B, 49, L)`` of tokens in
          slots, which sum to 1 over the tokens and are zero on padding, else ``None``

    Raises:
        UserError: an unknown pooling.
        ValueError: a row without a real token. This is checked on CPUs only, because it would synchronize a GPU; there
            such a row gives NaN.
    """

    def __init__(self, hidden_size: int, pooling: str = "average"):
        super().__init__()
        if pooling not in ("average", "queries"):
            raise UserError(f"context_pooling must be 'average' or 'queries', got {pooling!r}.")
        self.projection = nn.Linear(hidden_size, WIDTH)
        self.pooling = pooling
        if pooling == "queries":
            self.queries = nn.Parameter(torch.randn(GRID * GRID, WIDTH) * WIDTH**-0.5)
            self.attention = MultiHeadCrossAttention(WIDTH)

    def forward(self, tokens: Tensor, mask: Tensor, need_weights: bool = True) -> tuple[Tensor, Tensor | None]:
        if mask.device.type == "cpu" and not torch.compiler.is_exporting():
            check_not_empty(mask)
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


def check_not_empty(mask: Tensor) -> None:
    """Check that every row has a real token.

    Raises:
        ValueError: names the rows without one.
    """
    empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"Every text needs at least one real token. Rows {empty[:10]} of the batch have none.")


def average_weights(mask: Tensor, num_slots: int) -> Tensor:
    """Weights ``(B, num_slots, L)`` of adaptive average pooling over the real tokens of each row.

    Slot s of S averages the real tokens from ⌊s·n/S⌋ up to, but not including, ⌈(s+1)·n/S⌉ of a row with n, as
    ``torch.nn.AdaptiveAvgPool1d`` does. Here n may differ by row, and padding may be on either side.
    """
    rank = (mask.cumsum(dim=1) - 1)[:, None, :]
    count = mask.sum(dim=1)[:, None, None]
    slot = torch.arange(num_slots, device=mask.device)[None, :, None]
    start = slot * count // num_slots
    end = ((slot + 1) * count + num_slots - 1) // num_slots
    chosen = (rank >= start) & (rank < end) & mask[:, None, :]
    return chosen / (end - start)
