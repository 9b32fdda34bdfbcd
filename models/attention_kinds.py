"""Kinds of attention that cost less than every query with every slot: chunked, sparse and low rank.

All are called as `models.attention.attention` is: query ``(B, H, N, d)``, key and value ``(B, H, M, d)`` and a bool
mask broadcastable to ``(B, 1, N, M)`` (``True`` where a slot may be attended to) give the output ``(B, H, N, d)``
and, on request, the weights ``(B, H, N, M)``.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.attention import Attention, attention

KINDS = ("full", "chunked", "window", "top_k", "low_rank")


class ChunkedAttention(nn.Module):
    """Exact attention in blocks (Rabe & Staats 2021): memory grows with N + M, not with N · M.

    Torch's fused kernel works in blocks too and is used where it is the faster one, on everything but half precision
    on CPUs (``benchmarks/attention.py``), and where no weights are asked for. Otherwise blocks of queries are worked
    through here, and the scores of a block are computed again in the backward pass rather than kept.

    Args:
        block_size: queries whose scores stand in memory at a time.
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
    """Each query reads from the k slots with the highest scores (Gupta et al. 2021), in blocks as chunked does.

    Args:
        k: slots a query reads from; all where there are fewer.
        block_size: queries whose scores stand in memory at a time.
    """

    def __init__(self, k: int = 8, block_size: int = 256):
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
        weights = torch.zeros_like(scores).scatter(-1, best.indices, best.values.softmax(dim=-1)).to(value.dtype)
        return weights @ value, weights if need_weights else None


class WindowAttention(nn.Module):
    """Each position of a grid reads from the slots of a window around its own place (Parmar et al. 2018, section 3.3).

    Query and context are grids in reading order; where they differ in size, places are scaled. The grid is worked
    through in tiles, each with the rectangle of the context that its windows cover, so that time and memory grow
    with N. Where a window holds no slot that may be attended to, output and weights are zero.

    Args:
        window: side of the window in slots, odd.
        grid: rows and columns of the query; a square where not given.
        context_grid: likewise of the context.
        tile: side of a tile in positions.

    Raises:
        ValueError: an even window, or sequences that do not fill their grids.
    """

    def __init__(
        self,
        window: int = 7,
        grid: tuple[int, int] | None = None,
        context_grid: tuple[int, int] | None = None,
        tile: int = 8,
    ):
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window must be odd and at least 1, so that it has a centre; got {window}.")
        self.window = window
        self.grid = grid
        self.context_grid = context_grid
        self.tile = tile

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, context_mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        grid, context_grid = fill_grid(query.shape[-2], self.grid), fill_grid(key.shape[-2], self.context_grid)
        slots = torch.arange(key.shape[-2], device=query.device).view(context_grid)
        weights = query.new_zeros(*query.shape[:-1], key.shape[-2]) if need_weights else None
        bands = []
        for rows, row_slots, near_rows in self.bands(grid[0], context_grid[0], query.device):
            tiles = []
            for columns, column_slots, near_columns in self.bands(grid[1], context_grid[1], query.device):
                near = near_rows[:, None, :, None] & near_columns[None, :, None, :]
                mask = near.flatten(2).flatten(0, 1)
                seen = slots[row_slots, column_slots].flatten()
                if context_mask is not None:
                    mask = mask & context_mask[..., seen]
                here = query.unflatten(-2, grid)[..., rows, columns, :].flatten(-3, -2)
                output, part = attend_or_zero(here, key[..., seen, :], value[..., seen, :], mask, need_weights)
                tiles.append(output.unflatten(-2, (rows.stop - rows.start, -1)))
                if weights is not None and part is not None:
                    places = torch.arange(query.shape[-2], device=query.device).view(grid)[rows, columns].flatten()
                    weights[..., places[:, None], seen] = part.to(weights.dtype)
            bands.append(torch.cat(tiles, dim=-2))
        return torch.cat(bands, dim=-3).flatten(-3, -2), weights

    def bands(self, size: int, context_size: int, device: torch.device) -> list[tuple[slice, slice, Tensor]]:
        """Along one side: positions of each tile, the slots their windows cover, and which of them each one sees."""
        centres = ((torch.arange(size, device=device) + 0.5) * context_size / size).long()
        half = self.window // 2
        result = []
        for start in range(0, size, self.tile):
            stop = min(start + self.tile, size)
            first, last = start * context_size // size, int((stop - 0.5) * context_size / size)
            low, high = max(0, first - half), min(context_size, last + half + 1)
            near = (torch.arange(low, high, device=device) - centres[start:stop, None]).abs() <= half
            result.append((slice(start, stop), slice(low, high), near))
        return result


class LowRankAttention(nn.Module):
    """Keys and values of M slots are projected to r (Linformer, Wang et al. 2020, section 4).

    Each projected slot is a learned weighted mean of the slots that may be attended to, so the weights over slots
    still sum to 1 and masked slots do not enter. The means start as adaptive average pooling of neighbours.

    Args:
        num_slots: M.
        rank: r, from 1 to M.

    Raises:
        ValueError: another rank, a context of another length, or a mask that differs by query.
    """

    def __init__(self, num_slots: int, rank: int = 16):
        super().__init__()
        if not 1 <= rank <= num_slots:
            raise ValueError(f"rank must be from 1 to the {num_slots} slots of the context, got {rank}.")
        pooling = F.adaptive_avg_pool1d(torch.eye(num_slots), rank).T
        start = (pooling + 0.1 / num_slots).log()
        self.key_logits = nn.Parameter(start.clone())
        self.value_logits = nn.Parameter(start.clone())

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, context_mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if key.shape[-2] != self.key_logits.shape[1]:
            raise ValueError(f"This projection is for {self.key_logits.shape[1]} slots, got {key.shape[-2]}.")
        if context_mask is not None and context_mask.shape[-2] != 1:
            raise ValueError("Low-rank attention needs one mask for all queries, (B, 1, 1, M).")
        keys, values = (self.means(logits, context_mask) for logits in (self.key_logits, self.value_logits))
        output, weights = attention(query, keys.to(key.dtype) @ key, values.to(value.dtype) @ value, None, need_weights)
        return output, None if weights is None else weights @ values.to(weights.dtype)

    @staticmethod
    def means(logits: Tensor, mask: Tensor | None) -> Tensor:
        """Weights of the slots in each projected slot ``(…, r, M)``, each row of which sums to 1."""
        return (logits if mask is None else logits.masked_fill(~mask, float("-inf"))).softmax(dim=-1)


def fill_grid(length: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of a sequence; a square where no grid is given."""
    side = math.isqrt(length)
    rows, columns = grid or (side, side)
    if rows * columns != length:
        raise ValueError(f"{length} positions do not fill a grid of {rows}×{columns}; give its rows and columns.")
    return rows, columns


def attend_or_zero(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, need_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention where a query without any slot gives zeros."""
    sees = mask.any(dim=-1, keepdim=True)
    output, weights = attention(query, key, value, mask | ~sees, need_weights)
    return output * sees, None if weights is None else weights * sees


def build_attention(
    kind: str, num_slots: int, block_size: int = 256, window: int = 7, top_k: int = 8, rank: int = 16
) -> Attention:
    """The attention of a name: ``full``, ``chunked``, ``window``, ``top_k`` or ``low_rank``.

    Args:
        num_slots: M, slots of the context.
        block_size, window, top_k, rank: sizes of those kinds that have them; a rank above M is M.

    Raises:
        ValueError: another name, or sizes that a kind refuses.
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
    raise ValueError(f"attention must be one of {', '.join(KINDS)}, got {kind!r}.")


def in_blocks(
    attend: Attention,
    block_size: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attend block of queries by block of queries; a block's scores are not kept for the backward pass."""
    outputs: list[Tensor] = []
    weights: list[Tensor] = []
    for start in range(0, query.shape[-2], block_size):
        stop = start + block_size
        part = mask if mask is None or mask.shape[-2] == 1 else mask[..., start:stop, :]
        output, weight = checkpoint(
            attend,
            query[..., start:stop, :],
            key,
            value,
            part,
            need_weights,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        outputs.append(output)
        weights += [] if weight is None else [weight]
    return torch.cat(outputs, dim=-2), torch.cat(weights, dim=-2) if need_weights else None
