"""Fusion: what the image map becomes when it meets the context."""

from torch import Tensor, nn

from models.attention import MultiHeadCrossAttention


class CrossAttentionFusion(nn.Module):
    """Residual cross-attention from every position of an image map to every slot of a context map.

    ``features + out_proj(attention(norm(features), norm(context)))``. The output projection starts at zero
    and the main path is never normalised, so before training the map passes through unchanged: a pretrained
    network starts as itself (the zero-initialised residual branch of Goyal et al. 2017, section 5.1).

    Args:
        dim: channels D of both maps.
        num_heads: H, a divisor of D.

    Shape:
        - features: ``(B, D, h, w)``, N = h·w positions
        - context: ``(B, D, h', w')``, M = h'·w' slots
        - returns: the fused map ``(B, D, h, w)`` and, on request, the weights ``(B, H, N, M)``, else ``None``
    """

    def __init__(self, dim: int, num_heads: int = 8):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.attention = MultiHeadCrossAttention(dim, num_heads)
        nn.init.zeros_(self.attention.out_proj.weight)
        nn.init.zeros_(self.attention.out_proj.bias)

    def forward(
        self, features: Tensor, context: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        positions = features.flatten(2).transpose(1, 2)
        slots = context.flatten(2).transpose(1, 2)
        attended = self.attention(self.norm(positions), self.norm_context(slots), output_attentions=output_attentions)
        attended, weights = attended if output_attentions else (attended, None)
        return features + attended.transpose(1, 2).unflatten(2, features.shape[2:]), weights
