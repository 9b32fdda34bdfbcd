"""Fusion: what the image map becomes when it meets the context."""

import torch
from torch import Tensor, nn

from models.attention import MultiHeadCrossAttention


class CrossAttentionFusion(nn.Module):
    """Residual cross-attention from every position of an image map to every slot of a context map.

    ``features + out_proj(attention(norm(features) + place, norm(context)))``. The output projection starts at zero
    and the main path is never normalised, so before training the map passes through unchanged: a pretrained
    network starts as itself (the zero-initialised residual branch of Goyal et al. 2017, section 5.1). The queries
    are batch-normalised, which takes away what all positions have in common, and carry a fixed encoding of each
    position's place, so that words such as "left" can select positions.

    Args:
        dim: channels D of both maps.
        num_heads: H, a divisor of D.

    Shape:
        - features: ``(B, D, h, w)``, N = h·w positions
        - context: ``(B, D, h', w')``, M = h'·w' slots
        - image_index: ``(B,)`` int64, the row of ``features (I, D, h, w)`` each context belongs to, where several
          share one
        - returns: the fused map ``(B, D, h, w)`` and, on request, the weights ``(B, H, N, M)``, else ``None``
    """

    def __init__(self, dim: int, num_heads: int = 8):
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.attention = MultiHeadCrossAttention(dim, num_heads)
        nn.init.zeros_(self.attention.out_proj.weight)
        nn.init.zeros_(self.attention.out_proj.bias)

    def forward(
        self,
        features: Tensor,
        context: Tensor,
        output_attentions: bool = False,
        image_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        slots = context.flatten(2).transpose(1, 2)
        positions = self.norm(features).flatten(2).transpose(1, 2)
        height, width = features.shape[2:]
        queries = positions + place_encoding(height, width, positions)
        attended = self.attention(
            queries, self.norm_context(slots), output_attentions=output_attentions, query_index=image_index
        )
        attended, weights = attended if output_attentions else (attended, None)
        features = features if image_index is None else features[image_index]
        return features + attended.transpose(1, 2).unflatten(2, features.shape[2:]), weights


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
