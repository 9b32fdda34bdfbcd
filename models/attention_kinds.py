"""Kinds of attention that cost less than every query with every slot: chunked, sparse and low rank.

All are called as `models.attention.attention` is: query ``(B, H, N, d)``, key and value ``(B, H, M, d)`` and a bool
mask ``(B, 1, 1, M)`` (``True`` where a slot may be attended to, at least one a row) give the output ``(B, H, N, d)``
and, on request, the weights ``(B, H, N, M)``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from data.errors import UserError
from models.attention import Attention, attention

KINDS = ("full", "chunked", "window", "top_k", "low_rank")
WINDOW, TOP_K, RANK = 3, 8, 16
"""Sizes where none is given: side of the window, slots of top_k, means of low_rank."""


class ChunkedAttention(nn.Module):
    """Exact attention in blocks (Rabe & Staats 2021): memory grows with N + M, not with N · M.

    Torch's fused kernel works in blocks too and is used where no weights are asked for, but for half precision on CPUs,
    where it is slower on the long sequences that blocks are for (``benchmarks/attention.py``). Otherwise blocks of
    queries are worked through here, and the scores of a block are computed again in the backward pass rather than kept.

    Args:
        block_size: queries whose scores stand in memory at a time, where the context has more slots than that.
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
        block_size: queries whose scores stand in memory at a time, where the context has more slots than that.
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


class WindowAttention(nn.Module):
    """Each position of a grid reads from the slots of a window around its own place (Parmar et al. 2018, section 3.3).

    Query and context are grids in reading order; where they differ in size, places are scaled. The query is cut into
    tiles, each beside the rectangle of the context that its windows cover, so that time and memory grow with N. Where a
    window holds no slot that may be attended to, output and weights are zero.

    Args:
        window: side of the window in slots, odd.
        grid: rows and columns of the query; a square where not given.
        context_grid: likewise of the context.
        tile: side of a tile in positions.

    Raises:
        UserError: an even window, or sequences that do not fill their grids.
    """

    def __init__(
        self,
        window: int = WINDOW,
        grid: tuple[int, int] | None = None,
        context_grid: tuple[int, int] | None = None,
        tile: int = 8,
    ):
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise UserError(f"window must be odd and at least 1, so that it has a centre; got {window}.")
        self.window = window
        self.grid = grid
        self.context_grid = context_grid
        self.tile = tile

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, context_mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        grid, context_grid = fill_grid(query.shape[-2], self.grid), fill_grid(key.shape[-2], self.context_grid)
        (places, slots, near) = zip(
            *(self.tiles(*sizes, query.device) for sizes in zip(grid, context_grid, strict=True)), strict=True
        )
        mask = (near[0][:, None, :, None, :, None] & near[1][None, :, None, :, None, :]).flatten(4).flatten(2, 3)
        mask = mask.flatten(0, 1)  # (tiles, positions of a tile, slots of its rectangle)
        if context_mask is not None:
            mask = mask & cut(context_mask.transpose(-2, -1), context_grid, slots).transpose(-2, -1)
        here, keys, values = cut(query, grid, places), cut(key, context_grid, slots), cut(value, context_grid, slots)
        output, weights = attend_or_zero(here, keys, values, mask, need_weights)
        if weights is not None:
            seen = cut(torch.arange(key.shape[-2], device=key.device)[:, None], context_grid, slots)
            index = seen.transpose(-2, -1).expand_as(weights)
            everywhere = weights.new_zeros(*weights.shape[:-1], key.shape[-2])
            weights = join(everywhere.scatter_add(-1, index, weights), grid, places)
        return join(output, grid, places), weights

    def tiles(self, size: int, context_size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Along one side: the positions of each tile ``(tiles, t)``, the slots that their windows cover ``(tiles, s)``,
        and which of these each position sees ``(tiles, t, s)``. What would lie beyond the end is the last one again."""
        half, number = self.window // 2, math.ceil(size / self.tile)
        places = [[min(tile * self.tile + i, size - 1) for i in range(self.tile)] for tile in range(number)]
        centres = [[int((place + 0.5) * context_size / size) for place in tile] for tile in places]
        starts = [max(0, tile[0] - half) for tile in centres]
        length = max(tile[-1] + half + 1 - start for tile, start in zip(centres, starts, strict=True))
        slots = torch.tensor(starts, device=device)[:, None] + torch.arange(length, device=device)
        near = (slots[:, None] - torch.tensor(centres, device=device)[:, :, None]).abs() <= half
        seen = near & (slots < context_size)[:, None]
        return torch.tensor(places, device=device), slots.clamp(max=context_size - 1), seen


def cut(x: Tensor, grid: tuple[int, int], indices: Sequence[Tensor]) -> Tensor:
    """Rectangles of a grid in reading order, one below the other.

    Args:
        x: ``(…, rows · columns, d)``.
        indices: rows of each band ``(R, r)``, and columns of each ``(C, c)``.

    Returns:
        ``(…, R · C, r · c, d)``.
    """
    rows, columns = indices
    x = x.unflatten(-2, grid).index_select(-3, rows.flatten()).index_select(-2, columns.flatten())
    return x.unflatten(-2, columns.shape).unflatten(-4, rows.shape).transpose(-4, -3).flatten(-3, -2).flatten(-4, -3)


def join(x: Tensor, grid: tuple[int, int], indices: Sequence[Tensor]) -> Tensor:
    """What `cut` has cut, put together again: ``(…, R · C, r · c, d)`` → ``(…, rows · columns, d)``."""
    (bands, height), (strips, width) = (index.shape for index in indices)
    x = x.unflatten(-2, (height, width)).unflatten(-4, (bands, strips)).transpose(-4, -3)
    return x.flatten(-3, -2).flatten(-4, -3)[..., : grid[0], : grid[1], :].flatten(-3, -2)


class LowRankAttention(nn.Module):
    """Keys and values of M slots are projected to r (Linformer, Wang et al. 2020, section 4).

    Each projected slot is a learned weighted mean of the slots that may be attended to, and counts by how much of its
    weight they have, so the weights over slots still sum to 1 and masked slots do not enter. The means start as
    adaptive average pooling of neighbours.

    Args:
        num_slots: M.
        rank: r, from 1 to M.

    Raises:
        UserError: another rank, or a context of another length.
    """

    def __init__(self, num_slots: int, rank: int = RANK):
        super().__init__()
        if not 1 <= rank <= num_slots:
            raise UserError(f"rank must be from 1 to the {num_slots} slots of the context, got {rank}.")
        pooling = F.adaptive_avg_pool1d(torch.eye(num_slots), rank).T
        start = (pooling + 0.1 / num_slots).log()
        self.key_logits = nn.Parameter(start.clone())
        self.value_logits = nn.Parameter(start.clone())

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, context_mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if key.shape[-2] != self.key_logits.shape[1]:
            raise UserError(
                f"This projection is for {self.key_logits.shape[1]} slots, got {key.shape[-2]}; low rank reads as many "
                "as it was built for, in --model.fusion self with those of the image at its image_size."
            )
        (keys, mass), (values, _) = (
            self.means(logits, context_mask) for logits in (self.key_logits, self.value_logits)
        )
        scores = query @ (keys.to(key.dtype) @ key).transpose(-2, -1) / math.sqrt(query.shape[-1])
        weights = (scores + mass.log().transpose(-2, -1)).softmax(dim=-1).to(value.dtype)
        output = weights @ (values.to(value.dtype) @ value)
        return output, weights @ values.to(weights.dtype) if need_weights else None

    @staticmethod
    def means(logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weights of the slots in each projected slot ``(…, r, M)``, each row of which sums to 1, and how much of its
        weight the slots that may be attended to have ``(…, r, 1)``."""
        weights = logits.softmax(dim=-1)
        if mask is None:
            return weights, torch.ones_like(weights[..., :1])
        weights = weights * mask
        mass = weights.sum(dim=-1, keepdim=True)
        return weights / mass.clamp(min=torch.finfo(mass.dtype).tiny), mass


def fill_grid(length: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of a sequence; a square where no grid is given."""
    side = math.isqrt(length)
    rows, columns = grid or (side, side)
    if rows * columns != length:
        raise UserError(f"{length} positions do not fill a grid of {rows}×{columns}; give its rows and columns.")
    return rows, columns


def attend_or_zero(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, need_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention where a query without any slot gives zeros."""
    sees = mask.any(dim=-1, keepdim=True)
    output, weights = attention(query, key, value, mask | ~sees, need_weights)
    return output * sees, None if weights is None else weights * sees


def build_attention(
    kind: str, num_slots: int, block_size: int = 256, window: int = WINDOW, top_k: int = TOP_K, rank: int = RANK
) -> Attention:
    """The attention of a name: ``full``, ``chunked``, ``window``, ``top_k`` or ``low_rank``.

    Args:
        num_slots: M, slots of the context.
        block_size, window, top_k, rank: sizes of those kinds that have them; a rank above M is M.

    Raises:
        UserError: another name, or sizes that a kind refuses.
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
    """Attend block of queries by block of queries; a block's scores are not kept for the backward pass.

    A context no longer than a block is attended to at once: its scores grow with N alone (`benchmarks/attention.py`).
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
