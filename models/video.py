"""Videos: sheets of frames, which the image encoder sees one by one, and attention over time that pools their maps."""

from math import isqrt

from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import MultiHeadCrossAttention
from models.fusion import PositionNorm, position_encoding


def cut_sheets(sheets: Tensor, frames: int) -> Tensor:
    """The frames ``(I · frames, D, h, w)`` of sheets ``(I, D, n · h, n · w)``, n² frames each, in the order of time."""
    side = isqrt(frames)
    tiles = sheets.unflatten(3, (side, -1)).unflatten(2, (side, -1))  # I, D, row, h, column, w
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def join_sheets(maps: Tensor, frames: int) -> Tensor:
    """Sheets ``(I, D, n · h, n · w)`` of frames ``(I · frames, D, h, w)``; the inverse of `cut_sheets`."""
    side = isqrt(frames)
    tiles = maps.unflatten(0, (-1, side, side))  # I, row, column, D, h, w
    return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def run_frames(encoder: nn.Module, sheets: Tensor, after: int, upto: int, frames: int) -> Tensor:
    """Run blocks of an image encoder on every frame of some sheets; the maps come as sheets, too.

    Args:
        frames: frames of a sheet; with 1, the images themselves.

    Shape:
        - sheets: ``(I, D, n · h, n · w)``; returns: ``(I, D', n · h', n · w')``
    """
    if frames == 1:
        return encoder.run(sheets, after, upto)  # type: ignore[operator]
    return join_sheets(encoder.run(cut_sheets(sheets, frames), after, upto), frames)  # type: ignore[operator]


class FramePooling(nn.Module):
    """Pool the maps of the frames of a video to one map, by attention over time at each position.

    Each frame with its place in time passes a layer, so that a sum over frames tells what was seen when. Their mean
    attends to them, and what it reads is added to the mean of the maps. Nothing is initialized to zero: behind this
    branch comes the fusion, whose own starts at zero, and two of them in a row do not learn.

    Args:
        dim: channels D of the maps.
        frames: frames F of a video.

    Shape:
        - sheets: ``(I, D, n · h, n · w)``, F = n² maps each
        - returns: ``(I, D, h, w)``
    """

    def __init__(self, dim: int, frames: int, num_heads: int):
        super().__init__()
        self.frames = frames
        self.norm = PositionNorm(dim)
        self.layer = nn.Linear(dim, dim)
        self.attention = MultiHeadCrossAttention(dim, num_heads)

    def forward(self, sheets: Tensor) -> Tensor:
        maps = cut_sheets(sheets, self.frames)
        height, width = maps.shape[2:]
        values = maps.flatten(2).transpose(1, 2)
        tokens = self.norm(values).unflatten(0, (-1, self.frames))  # I, F, positions, D
        tokens = tokens + position_encoding(self.frames, 1, tokens)[:, None]
        tokens = F.relu(self.layer(tokens)).transpose(1, 2).flatten(0, 1)
        change = self.attention(tokens.mean(dim=1, keepdim=True), tokens)
        mean = values.unflatten(0, (-1, self.frames)).mean(dim=1)
        assert isinstance(change, Tensor)
        return (mean + change.view_as(mean)).transpose(1, 2).unflatten(2, (height, width))
