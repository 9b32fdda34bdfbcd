"""Cross-attention: image positions (the queries) attend to a context sequence (keys and values).

Shape letters used in this folder: ``B`` batch (pairs), ``I`` images, ``T`` texts, ``L`` text tokens, ``N`` image
positions, ``M`` context slots, ``D`` width, ``H`` heads, ``C`` classes.
"""

import math
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import UserError

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], tuple[Tensor, Tensor | None]]
"""A function of query ``(B, H, N, d)``, key and value ``(B, H, M, d)``, mask and need_weights, as `attention` is."""


def attention(
    query: Tensor, key: Tensor, value: Tensor, context_mask: Tensor | None = None, need_weights: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention, ``softmax(Q Kᵀ / √d) V`` (Vaswani et al. 2017, section 3.2.1).

    On CPUs the product is written out, which trains faster there than torch's fused kernel (``benchmarks/kernels.py``).
    On other devices the fused kernel is used unless the weights are needed.

    Shape:
        - query: ``(..., N, d)``; key, value: ``(..., M, d)``
        - context_mask: bool, broadcastable to ``(..., N, M)``, ``True`` on slots that may be attended to, at least one
          per row
        - returns: output ``(..., N, d)``, and weights ``(..., N, M)`` that sum to 1 over M, or ``None``
    """
    if query.device.type != "cpu" and not need_weights:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=context_mask), None
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if context_mask is not None:
        scores = scores.masked_fill(~context_mask, float("-inf"))
    weights = scores.softmax(dim=-1).to(value.dtype)
    return weights @ value, weights if need_weights else None


class MultiHeadCrossAttention(nn.Module):
    """Multi-head cross-attention (Vaswani et al. 2017, section 3.2.2).

    Computes the same as ``torch.nn.MultiheadAttention`` with the same weights.

    Args:
        embed_dim: width D of both sequences.
        num_heads: number of heads H, a divisor of D.
        kind: the attention function; full attention by default, see `models.attention_kinds`.

    Shape:
        - x1: ``(B, N, D)`` primary sequence; x2: ``(B, M, D)`` context sequence
        - context_mask: ``(B, M)`` bool, ``True`` on real context tokens, at least one per row
        - query_index, context_index: ``(B,)`` int64, the rows of ``x1 (I, N, D)`` and ``x2 (T, M, D)`` of each pair;
          a row shared by several pairs is projected once
        - returns: ``(B, N, D)``; with ``output_attentions`` also the weights ``(B, H, N, M)``

    Raises:
        UserError: D is not divisible by H.
        ValueError: a sequence that is not of shape ``(B, tokens, D)``.
    """

    def __init__(self, embed_dim: int, num_heads: int = 8, kind: Attention | None = None):
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads != 0:
            raise UserError(
                f"embed_dim must be divisible by num_heads, got embed_dim={embed_dim} and num_heads={num_heads}. "
                f"Use one of {[h for h in range(1, min(embed_dim, 64) + 1) if embed_dim % h == 0]} heads."
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.attend = kind or attention
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        context_mask: Tensor | None = None,
        output_attentions: bool = False,
        query_index: Tensor | None = None,
        context_index: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        check_sequences(x1, x2, self.embed_dim, query_index, context_index)
        query, key, value = (
            take(project(x), index).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project, x, index in (
                (self.q_proj, x1, query_index),
                (self.k_proj, x2, context_index),
                (self.v_proj, x2, context_index),
            )
        )
        mask = None if context_mask is None else context_mask[:, None, None, :]
        output, weights = self.attend(query, key, value, mask, output_attentions)
        output = self.out_proj(output.transpose(1, 2).flatten(2))
        return (output, weights) if weights is not None else output


def take(rows: Tensor, index: Tensor | None) -> Tensor:
    """Select rows by index; all rows without one.

    On CPUs the backward pass takes a quarter of the time of that of ``rows[index]`` for contiguous gradients.
    """
    return rows if index is None else rows.index_select(0, index)


def check_sequences(
    x1: Tensor,
    x2: Tensor,
    embed_dim: int,
    query_index: Tensor | None = None,
    context_index: Tensor | None = None,
) -> None:
    """Check that both sequences are ``(batch, tokens, embed_dim)`` and give the same number of pairs.

    Raises:
        ValueError: another shape, or different numbers of pairs.
    """
    for name, x in (("x1", x1), ("x2", x2)):
        if x.dim() != 3 or x.shape[-1] != embed_dim:
            raise ValueError(f"{name} must be (batch, tokens, {embed_dim}), got {tuple(x.shape)}.")
    rows = x1.shape[0] if query_index is None else query_index.shape[0]
    contexts = x2.shape[0] if context_index is None else context_index.shape[0]
    if rows != contexts:
        raise ValueError(f"x1 and x2 must have the same batch size, got {rows} and {contexts}.")
