"""Fusion: what the image map becomes when it meets the context. Four kinds with one interface and budget."""

import torch
from torch import Tensor, nn

from data.errors import UserError
from models.attention import Attention, MultiHeadCrossAttention, take
from models.attention_kinds import WindowAttention

FUSIONS = ("cross", "self", "concat", "none")


class Fusion(nn.Module):
    """A residual branch from an image map and a context map: ``features + dropout(branch)``.

    The branch's last projection starts at zero and the main path is never normalised, so before training the map
    passes through unchanged: a pretrained network starts as itself (the zero-initialised residual branch of Goyal
    et al. 2017, section 5.1). What positions bring is batch-normalised, which takes away what all positions have in
    common, and carries a fixed encoding of each position's place, so that words such as "left" can select positions.

    Args:
        dim: channels D of the image map.
        context_dim: channels of the context map; projected to D where it is another number.
        dropout: on the branch, in [0, 1).

    Shape:
        - features: ``(B, D, h, w)``, N = h·w positions
        - context: ``(B, context_dim, h', w')``, M = h'·w' slots
        - image_index, text_index: ``(B,)`` int64, the rows of ``features (I, D, h, w)`` and ``context (T, …)`` that
          each pair is made of, where several share one
        - returns: the fused map ``(B, D, h, w)`` and, on request, weights of the positions over the slots
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
        positions = positions + place_encoding(height, width, positions)
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
        """What is added to each position ``(B, N, D)``, and weights."""
        raise NotImplementedError


class AttentionFusion(Fusion):
    """A branch of multi-head attention; its kinds differ in what positions attend to.

    Args:
        num_heads: H, a divisor of D.
        kind: how queries read from keys and values; all from all where not given (`models.attention_kinds`).

    Raises:
        UserError: a map that is no square, where the kind reads from a window.
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
        start_at_zero(self.attention.out_proj)

    def forward(self, features: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor | None]:
        height, width = features.shape[2:]
        if isinstance(self.attention.attend, WindowAttention) and height != width:
            raise UserError(f"A window needs a square map, got {height}×{width}: bring the images to a square.")
        return super().forward(features, *args, **kwargs)


class CrossAttentionFusion(AttentionFusion):
    """Every position of the image map attends to every slot of the context map."""

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
    """Positions attend to positions and slots alike, as one sequence (merged attention, Dou et al. 2022, section 3).

    The weights that are returned are those over the slots: they do not add up to 1, positions have the rest.
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
    """Each position beside the mean of the context, through two layers with as many parameters as cross-attention."""

    def __init__(self, dim: int, context_dim: int | None = None, dropout: float = 0.0):
        super().__init__(dim, context_dim or dim, dropout)
        hidden = round(4 * dim / 3)  # 2·dim·hidden + hidden·dim = 4·dim², the four projections of attention
        last = nn.Linear(hidden, dim)
        start_at_zero(last)
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
    """The map as it is: the text has no say. What the image alone can answer."""

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
    """The fusion of a name: ``cross``, ``self``, ``concat`` or ``none``; the last two have no attention.

    Raises:
        UserError: another name.
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
    """Stop at options that the fusion cannot follow.

    Those of attention are let through where there is none, so that an ablation can give them to all fusions alike.

    Raises:
        UserError: gates around nothing, or a window over a sequence that is no grid.
    """
    if fusion == "none" and gated:
        raise UserError("Gates need a fusion to run or not: fusion none has nothing to skip.")
    if fusion == "self" and attention == "window":
        raise UserError("A window needs a grid, and fusion self reads from image and text as one sequence.")


class PositionNorm(nn.BatchNorm1d):
    """Batch norm of positions ``(B, N, D)``, each counted as a row: the numbers of ``BatchNorm2d`` on the map.

    On CPU its backward pass is ten times faster where map and gradient differ in memory order.
    """

    def forward(self, positions: Tensor) -> Tensor:
        return super().forward(positions.flatten(0, 1)).view_as(positions)


def start_at_zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def place_encoding(height: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of row and column ``(height · width, D)``, half of D each (Vaswani et al. 2017, section 3.5).

    Wavelengths reach from 2π to 200π positions, for maps of up to some hundred rows.
    """
    quarter = like.shape[-1] // 4
    frequencies = 100 ** -(torch.arange(quarter, device=like.device) / quarter)
    rows, columns = (torch.arange(size, device=like.device)[:, None] * frequencies for size in (height, width))
    rows, columns = (torch.cat([angles.sin(), angles.cos()], dim=1) for angles in (rows, columns))
    grid = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=2)
    return grid.flatten(0, 1).to(like.dtype)
