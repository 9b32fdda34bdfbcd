"""Attention to a window around each position of a grid. It has the interface of `models.attention.attention`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data.errors import UserError
from models.attention import attention

WINDOW = 3
"""Default side of the window, in slots."""


class WindowAttention(nn.Module):
    """Each position attends to the slots in a window around its own place (Parmar et al. 2018, section 3.3).

    Query and context are grids in row-major order; places are scaled if the grids differ in size. The query is split
    into tiles, and each tile attends to the rectangle of the context that its windows cover, so time and memory grow
    with N. If all slots of a window are masked, output and weights are zero.

    Args:
        window: side of the window in slots, odd.
        grid: rows and columns of the query; a square by default.
        context_grid: rows and columns of the context; a square by default.
        tile: side of a tile in positions.

    Raises:
        UserError: an even window.
        ValueError: sequences that do not fill their grids.
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
            raise UserError(f"The attention window must be odd and at least 1, got {window}.")
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
        """Tiles along one side of the grid.

        Returns:
            The positions of each tile ``(tiles, t)``, the slots that their windows cover ``(tiles, s)``, and a mask of
            the slots in the window of each position ``(tiles, t, s)``. Indices beyond the end repeat the last one.
        """
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
    """Cut a grid in row-major order into rectangles.

    Args:
        x: ``(…, rows · columns, d)``.
        indices: the rows of each band ``(R, r)`` and the columns of each strip ``(C, c)``.

    Returns:
        ``(…, R · C, r · c, d)``.
    """
    rows, columns = indices
    x = x.unflatten(-2, grid).index_select(-3, rows.flatten()).index_select(-2, columns.flatten())
    return x.unflatten(-2, columns.shape).unflatten(-4, rows.shape).transpose(-4, -3).flatten(-3, -2).flatten(-4, -3)


def join(x: Tensor, grid: tuple[int, int], indices: Sequence[Tensor]) -> Tensor:
    """Invert `cut`: ``(…, R · C, r · c, d)`` → ``(…, rows · columns, d)``."""
    (bands, height), (strips, width) = (index.shape for index in indices)
    x = x.unflatten(-2, (height, width)).unflatten(-4, (bands, strips)).transpose(-4, -3)
    return x.flatten(-3, -2).flatten(-4, -3)[..., : grid[0], : grid[1], :].flatten(-3, -2)


def fill_grid(length: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of a sequence; a square without a given grid.

    Raises:
        ValueError: a length that does not fill the grid.
    """
    side = math.isqrt(length)
    rows, columns = grid or (side, side)
    if rows * columns != length:
        raise ValueError(f"{length} positions do not fill a grid of {rows}×{columns}; give its rows and columns.")
    return rows, columns


def attend_or_zero(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, need_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention with output and weights of zero for queries whose slots are all masked."""
    sees = mask.any(dim=-1, keepdim=True)
    output, weights = attention(query, key, value, mask | ~sees, need_weights)
    return output * sees, None if weights is None else weights * sees
