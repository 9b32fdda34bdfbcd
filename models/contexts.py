"""Contexts beside the text: each turns its input to tokens, and the tokens to 49 slots that the image attends to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from data.errors import UserError
from models.audio import AudioTokens
from models.context import ContextGrid
from models.fusion import PositionNorm, position_encoding
from models.picture_encoder import PictureEncoder

COLUMN_WIDTH = 128
"""Width of the tokens that columns of a table become."""


class ImageTokens(nn.Module):
    """Tokens of a second picture: the positions of its map, normalized as in `models.fusion.Fusion`, with their places.

    Args:
        dim: channels D of the map.

    Shape:
        - maps: ``(K, D, h, w)``
        - returns: tokens ``(K, h·w, D)`` and their mask, all ``True``
    """

    def __init__(self, dim: int):
        super().__init__()
        self.hidden_size = dim
        self.norm = PositionNorm(dim)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        height, width = maps.shape[2:]
        tokens = self.norm(maps.flatten(2).transpose(1, 2))
        tokens = tokens + position_encoding(height, width, tokens)
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


class VectorTokens(nn.Module):
    """Tokens that were made elsewhere: standardized vectors, or sequences of them, as they are.

    Shape:
        - values: ``(K, L, width)``; mask: ``(K, L)`` bool
        - returns: both
    """

    def __init__(self, width: int):
        super().__init__()
        self.hidden_size = width

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return values, mask


class ColumnTokens(nn.Module):
    """Columns of a table as tokens, one a column (FT-Transformer, Gorishniy et al. 2021, section 3.3).

    The token of a number is a vector times the number plus another vector; that of a category is a vector of its own.

    Args:
        categories: number of categories of each column, 0 for a column of numbers.

    Shape:
        - values: ``(K, L)`` float, a standardized number or the index of a category; mask: ``(K, L)`` bool, ``False``
          for an empty cell
        - returns: tokens ``(K, L, 128)`` and the mask
    """

    def __init__(self, categories: list[int]):
        super().__init__()
        self.hidden_size = COLUMN_WIDTH
        sizes = [max(1, number) for number in categories]
        self.starts = [sum(sizes[:column]) for column in range(len(sizes))]
        self.is_number = [number == 0 for number in categories]
        scale = COLUMN_WIDTH**-0.5
        self.slope = nn.Parameter(torch.randn(len(sizes), COLUMN_WIDTH) * scale)
        self.vectors = nn.Parameter(torch.randn(sum(sizes), COLUMN_WIDTH) * scale)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        starts, is_number = (torch.tensor(part, device=values.device) for part in (self.starts, self.is_number))
        index = torch.where(is_number, 0, values).long() + starts
        number = torch.where(is_number & mask, values, 0).to(self.slope.dtype)
        return self.vectors[index] + number[..., None] * self.slope, mask


class Context(nn.Module):
    """A named input besides image and text, as slots that the image attends to.

    Args:
        spec: an entry of ``config.contexts``.
        pooling: how tokens are pooled to slots, see `models.context.ContextGrid`.
        image_dim: channels of the image encoder's last map, for a second picture.
        text_dim: width of the text encoder's tokens, for a second text.

    Raises:
        UserError: an unknown kind, or a text without a text encoder.
    """

    def __init__(self, spec: dict[str, Any], pooling: str, image_dim: int, text_dim: int | None):
        super().__init__()
        self.name, self.kind = spec["name"], spec["kind"]
        self.encoder = PictureEncoder(spec["encoder"]) if spec.get("encoder") else None
        self.tokens = build_tokens(spec, image_dim if self.encoder is None else self.encoder.width())
        hidden_size = text_dim if self.tokens is None else int(self.tokens.hidden_size)  # type: ignore[arg-type]
        if hidden_size is None:
            raise UserError(f"The context {self.name!r} is a text, but the model has no text encoder.")
        self.grid = ContextGrid(hidden_size, pooling)
        self.missing = nn.Parameter(torch.randn(hidden_size) * 0.02)

    @property
    def parts(self) -> list[nn.Module | nn.Parameter]:
        """What makes its tokens, if it is no text, without its image encoder; the pooling to slots; and the token for a
        missing input."""
        return [*([] if self.tokens is None else [self.tokens]), self.grid, self.missing]

    def slots(self, tokens: Tensor | None, mask: Tensor | None, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The slots of each pair, those of the learned token where the input is missing.

        Shape:
            - tokens: ``(K, L, hidden_size)``; mask: ``(K, L)`` bool; both ``None`` if no pair has the input
            - index: ``(B,)`` int64, the row of each pair, -1 for a missing one
            - returns: ``(B, 512, 7, 7)``
        """
        missing = self.missing[None, None].to(dtype)
        if tokens is None or mask is None:
            tokens, mask = missing, torch.ones(1, 1, dtype=torch.bool, device=missing.device)
        else:
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            mask = torch.cat([mask | (first & ~mask.any(dim=1, keepdim=True)), first[None]])
            tokens = torch.cat([tokens, missing.to(tokens.dtype).expand(1, *tokens.shape[1:])])
        grids, _ = self.grid(tokens, mask, False)
        return grids[torch.where(index >= 0, index, grids.shape[0] - 1)]


def build_tokens(spec: dict[str, Any], image_dim: int) -> nn.Module | None:
    """The module that makes the tokens of a context; ``None`` for a text, which the text encoder encodes."""
    kind = spec["kind"]
    if kind == "text":
        return None
    if kind == "image":
        return ImageTokens(image_dim)
    if kind == "audio":
        return AudioTokens(spec)
    if kind == "vectors":
        return VectorTokens(spec["width"])
    if kind == "columns":
        return ColumnTokens([len(column["categories"] or ()) for column in spec["inputs"]])
    raise UserError(f"A context is of the kind text, image, audio, vectors or columns, got {kind!r}.")


def audio_encoders(model: nn.Module) -> list[AudioTokens]:
    """The encoders of the sounds of a classifier."""
    return [module for module in model.modules() if isinstance(module, AudioTokens)]


def picture_encoders(model: nn.Module) -> dict[str, PictureEncoder]:
    """The image encoders of a classifier beside the main one, by the name of their context."""
    found = {module.name: module.encoder for module in model.modules() if isinstance(module, Context)}
    return {name: encoder for name, encoder in found.items() if encoder is not None}
