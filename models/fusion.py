"""Fusion of the image map with the context: four kinds with the same interface and a similar number of parameters."""

import torch
from torch import Tensor, nn

from data.errors import UserError
from models.attention import Attention, MultiHeadCrossAttention, take
from models.window_attention import WindowAttention

FUSIONS = ("cross", "self", "concat", "none")


class Fusion(nn.Module):
    """Add a residual branch computed from the image map and the context: ``features + dropout(branch)``.

    The last projection of the branch is initialized to zero and the main path has no norm, so before training the map
    passes unchanged and a pretrained network starts as itself (zero-initialized residual branch, Goyal et al. 2017,
    section 5.1). The input of the branch is batch-normalized, which removes what all positions have in common. It has a
    fixed positional encoding added, so that words such as "left" can select positions.

    Args:
        dim: channels D of the image map.
        context_dim: channels of the context map; projected to D if they differ.
        dropout: dropout on the branch, in [0, 1).

    Shape:
        - features: ``(B, D, h, w)``, N = h·w positions
        - context: ``(B, context_dim, h', w')``, M = h'·w' slots
        - image_index, text_index: ``(B,)`` int64, the rows of ``features (I, D, h, w)`` and ``context (T, …)`` of
          each pair; ``None``: pair b consists of row b
        - returns: the fused map ``(B, D, h, w)`` and, on request, the weights of positions over slots
          ``(B, H, N, M)``, else ``None``
    """

    def __init__(self, dim: int, context_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm = PositionNorm(dim)
        self.context_block = nn.Identity() if context_dim == dim else nn.Linear(context_dim, dim)
        self.norm_context = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        features: Tensor,
        context: Tensor,
        output_attentions: bool = False,
        image_index: Tensor | None = None,
        text_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        slots = self.norm_context(self.context_block(context.flatten(2).transpose(1, 2)))
        height, width = features.shape[2:]
        features = features.flatten(2).transpose(1, 2)
        positions = self.norm(features)
        positions = positions + position_encoding(height, width, positions)
        change, weights = self.branch(positions, slots, output_attentions, image_index, text_index)
        fused = take(features, image_index) + self.dropout(change)
        return fused.transpose(1, 2).unflatten(2, (height, width)), weights

    def branch(
        self,
        positions: Tensor,
        slots: Tensor,
        output_attentions: bool,
        image_index: Tensor | None,
        text_index: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The residual branch ``(B, N, D)``, and the attention weights or ``None``."""
        raise NotImplementedError


class AttentionFusion(Fusion):
    """Fusion by multi-head attention; subclasses differ in what positions attend to.

    Args:
        num_heads: number of heads H, a divisor of D.
        kind: the attention function; full attention by default, see `models.attention_kinds`.

    Raises:
        UserError: heads that do not divide D.
        ValueError: a map that is not square, with window attention.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        context_dim: int | None = None,
        dropout: float = 0.0,
        kind: Attention | None = None,
    ):
        super().__init__(dim, context_dim or dim, dropout)
        self.attention = MultiHeadCrossAttention(dim, num_heads, kind)
        init_to_zero(self.attention.out_proj)

    def forward(self, features: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor | None]:
        height, width = features.shape[2:]
        if isinstance(self.attention.attend, WindowAttention) and height != width:
            raise ValueError(
                f"Window attention needs a square map, got {height}×{width}; resize the images to a square."
            )
        return super().forward(features, *args, **kwargs)


class CrossAttentionFusion(AttentionFusion):
    """Every position of the image map attends to the slots of the context."""

    def branch(
        self,
        positions: Tensor,
        slots: Tensor,
        output_attentions: bool,
        image_index: Tensor | None,
        text_index: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        attended = self.attention(positions, slots, None, output_attentions, image_index, text_index)
        return attended if output_attentions else (attended, None)


class SelfAttentionFusion(AttentionFusion):
    """Positions attend to positions and slots as one sequence (merged attention, Dou et al. 2022, section 3).

    Only the weights over the slots are returned. They sum to less than 1; the rest falls on positions.
    """

    def branch(
        self,
        positions: Tensor,
        slots: Tensor,
        output_attentions: bool,
        image_index: Tensor | None,
        text_index: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        positions = take(positions, image_index)
        merged = torch.cat([positions, take(slots, text_index)], dim=1)
        attended = self.attention(positions, merged, output_attentions=output_attentions)
        if not output_attentions:
            return attended, None
        attended, weights = attended
        return attended, weights[..., positions.shape[1] :]


class ConcatFusion(Fusion):
    """A two-layer network on each position and the mean of the context, with as many parameters as cross-attention."""

    def __init__(self, dim: int, context_dim: int | None = None, dropout: float = 0.0):
        super().__init__(dim, context_dim or dim, dropout)
        hidden = round(4 * dim / 3)  # 2·dim·hidden + hidden·dim = 4·dim², the four projections of attention
        last = nn.Linear(hidden, dim)
        init_to_zero(last)
        self.layers = nn.Sequential(nn.Linear(2 * dim, hidden), nn.ReLU(), last)

    def branch(
        self,
        positions: Tensor,
        slots: Tensor,
        output_attentions: bool,
        image_index: Tensor | None,
        text_index: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        positions = take(positions, image_index)
        mean = take(slots.mean(dim=1, keepdim=True), text_index).expand_as(positions)
        return self.layers(torch.cat([positions, mean], dim=2)), None


class NoFusion(nn.Module):
    """Return the map unchanged: a baseline that ignores the text."""

    def forward(
        self,
        features: Tensor,
        context: Tensor,
        output_attentions: bool = False,
        image_index: Tensor | None = None,
        text_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        return take(features, image_index), None


def build_fusion(
    kind: str, dim: int, num_heads: int, context_dim: int, dropout: float = 0.0, attend: Attention | None = None
) -> nn.Module:
    """Build the fusion of a kind.

    Args:
        kind: one of `FUSIONS`; ``concat`` and ``none`` have no attention.
        attend: the attention function, see `models.attention_kinds.build_attention`.

    Raises:
        UserError: an unknown kind, or heads that do not divide ``dim``.
    """
    if kind == "cross":
        return CrossAttentionFusion(dim, num_heads, context_dim, dropout, attend)
    if kind == "self":
        return SelfAttentionFusion(dim, num_heads, context_dim, dropout, attend)
    if kind == "concat":
        return ConcatFusion(dim, context_dim, dropout)
    if kind == "none":
        return NoFusion()
    raise UserError(f"fusion must be one of {', '.join(FUSIONS)}, got {kind!r}.")


def check_fusion(fusion: str, attention: str, gated: bool) -> None:
    """Check that the options fit the fusion.

    Options of attention are allowed for fusions without attention, so that an ablation can use the same options.

    Raises:
        UserError: gates without a fusion, or a window with the fusion ``self``.
    """
    if fusion == "none" and gated:
        raise UserError("Gates need a fusion that can be skipped; the fusion none has nothing to skip.")
    if fusion == "self" and attention == "window":
        raise UserError("Window attention needs a grid; the fusion self attends to image and text as one sequence.")


class PositionNorm(nn.BatchNorm1d):
    """Batch norm over positions ``(B, N, D)``; computes the same as ``BatchNorm2d`` on the map.

    On CPUs the backward pass is ten times faster if map and gradient differ in memory format.
    """

    def forward(self, positions: Tensor) -> Tensor:
        return super().forward(positions.flatten(0, 1)).view_as(positions)


def init_to_zero(layer: nn.Linear) -> None:
    """Set the weights of a layer to zero, so that its branch adds nothing before training."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def position_encoding(height: int, width: int, like: Tensor) -> Tensor:
    """Sinusoidal encoding of row and column ``(height · width, D)``, half of D each (Vaswani et al. 2017, section 3.5).

    Wavelengths range from 2π to 200π positions, for maps of up to a few hundred rows.

    Args:
        like: a tensor with width D as last dimension, of the dtype and device of the result.
    """
    quarter = like.shape[-1] // 4
    frequencies = 100 ** -(torch.arange(quarter, device=like.device) / quarter)
    rows, columns = (torch.arange(size, device=like.device)[:, None] * frequencies for size in (height, width))
    rows, columns = (torch.cat([angles.sin(), angles.cos()], dim=1) for angles in (rows, columns))
    grid = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=2)
    return grid.flatten(0, 1).to(like.dtype)
