"""Kinds of attention that cost less than full attention: chunked, sparse (window, top-k) and low-rank.

All have the interface of `models.attention.attention`: query ``(B, H, N, d)``, key and value ``(B, H, M, d)`` and a
bool mask ``(B, 1, 1, M)`` (``True`` on slots that may be attended to, at least one per row) give the output
``(B, H, N, d)`` and, on request, the weights ``(B, H, N, M)``.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from data.errors import UserError
from models.attention import Attention, attention
from models.window_attention import WINDOW, WindowAttention

KINDS = ("full", "chunked", "window", "top_k", "low_rank")
TOP_K, RANK = 8, 16
"""Default sizes: slots of top_k, averages of low_rank."""


class ChunkedAttention(nn.Module):
    """Exact attention in blocks of queries (Rabe & Staats 2021): memory grows with N + M instead of N · M.

    Without weights, torch's fused kernel is used, which also works in blocks. In half precision on CPUs that kernel is
    slower for long sequences (``benchmarks/attention.py``), so blocks are processed here, as they are when weights are
    needed. The scores of a block are recomputed in the backward pass (gradient checkpointing).

    Args:
        block_size: queries per block; a context of at most this many slots is not split.
    """

    def __init__(self, block_size: int = 256):
        super().__init__()
        self.block_size = block_size

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, context_mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if need_weights or (query.device.type == "cpu" and query.dtype != torch.float32):
            return in_blocks(attention, self.block_size, query, key, value, context_mask, need_weights)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=context_mask), None


class TopKAttention(nn.Module):
    """Each query attends to the k slots with the highest scores (Gupta et al. 2021), in blocks as `ChunkedAttention`.

    Args:
        k: slots per query; all slots if there are fewer.
        block_size: queries per block; a context of at most this many slots is not split.
    """

    def __init__(self, k: int = TOP_K, block_size: int = 256):
        super().__init__()
        self.k = k
        self.block_size = block_size

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, context_mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        return in_blocks(self.attend, self.block_size, query, key, value, context_mask, need_weights)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        best = scores.topk(min(self.k, key.shape[-2]), dim=-1)
        shares = best.values.softmax(dim=-1).to(value.dtype)  # float32 under CUDA's autocast
        weights = torch.zeros_like(scores, dtype=value.dtype).scatter(-1, best.indices, shares)
        return weights @ value, weights if need_weights else None


class LowRankAttention(nn.Module):
    """Project keys and values from M slots to r (Linformer, Wang et al. 2020, section 4).

    Each projected slot is a learned weighted average of the unmasked slots. Its score is offset by the log of the
    weight that falls on unmasked slots, so masked slots have no influence and the weights over slots sum to 1. The
    averages are initialized as adaptive average pooling of neighbours.

    Args:
        num_slots: M.
        rank: r, from 1 to M.

    Raises:
        UserError: a rank out of range.
        ValueError: a context of another length than M.
    """

    def __init__(self, num_slots: int, rank: int = RANK):
        super().__init__()
        if not 1 <= rank <= num_slots:
            raise UserError(f"The attention rank must be from 1 to {num_slots}, the number of slots, got {rank}.")
        pooling = F.adaptive_avg_pool1d(torch.eye(num_slots), rank).T
        start = (pooling + 0.1 / num_slots).log()
        self.key_logits = nn.Parameter(start.clone())
        self.value_logits = nn.Parameter(start.clone())

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, context_mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if key.shape[-2] != self.key_logits.shape[1]:
            raise ValueError(
                f"This low-rank attention was built for {self.key_logits.shape[1]} slots, got {key.shape[-2]}. With "
                "the fusion self the number depends on the image size: use images of config.image_size."
            )
        (keys, mass), (values, _) = (
            self.averages(logits, context_mask) for logits in (self.key_logits, self.value_logits)
        )
        scores = query @ (keys.to(key.dtype) @ key).transpose(-2, -1) / math.sqrt(query.shape[-1])
        weights = (scores + mass.log().transpose(-2, -1)).softmax(dim=-1).to(value.dtype)
        output = weights @ (values.to(value.dtype) @ value)
        return output, weights @ values.to(weights.dtype) if need_weights else None

    @staticmethod
    def averages(logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weights of the slots in each projected slot, and the mass of these weights before masking.

        Returns:
            Weights ``(…, r, M)`` that sum to 1 over the unmasked slots, and the share ``(…, r, 1)`` of the learned
            weights that falls on unmasked slots.
        """
        weights = logits.softmax(dim=-1)
        if mask is None:
            return weights, torch.ones_like(weights[..., :1])
        weights = weights * mask
        mass = weights.sum(dim=-1, keepdim=True)
        return weights / mass.clamp(min=torch.finfo(mass.dtype).tiny), mass


def build_attention(
    kind: str, num_slots: int, block_size: int = 256, window: int = WINDOW, top_k: int = TOP_K, rank: int = RANK
) -> Attention:
    """Build the attention of a kind.

    Args:
        kind: one of `KINDS`.
        num_slots: number of context slots M.
        block_size, window, top_k, rank: sizes, each used by the kinds that have it; a rank above M becomes M.

    Raises:
        UserError: an unknown kind, or an invalid size.
    """
    if kind == "full":
        return attention
    if kind == "chunked":
        return ChunkedAttention(block_size)
    if kind == "window":
        return WindowAttention(window)
    if kind == "top_k":
        return TopKAttention(top_k, block_size)
    if kind == "low_rank":
        return LowRankAttention(num_slots, min(rank, num_slots))
    raise UserError(f"attention must be one of {', '.join(KINDS)}, got {kind!r}.")


def in_blocks(
    attend: Attention,
    block_size: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attention in blocks of queries, each recomputed in the backward pass (gradient checkpointing).

    A context of at most ``block_size`` slots is not split: its scores grow with N alone (``benchmarks/attention.py``).
    """
    if key.shape[-2] <= block_size:
        return attend(query, key, value, mask, need_weights)
    outputs: list[Tensor] = []
    weights: list[Tensor] = []
    for start in range(0, query.shape[-2], block_size):
        stop = start + block_size
        block = query[..., start:stop, :]
        output, weight = checkpoint(
            attend, block, key, value, mask, need_weights, use_reentrant=False, preserve_rng_state=False
        )
        outputs.append(output)
        weights += [] if weight is None else [weight]
    return torch.cat(outputs, dim=-2), torch.cat(weights, dim=-2) if need_weights else None
