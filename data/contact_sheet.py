"""Square sheets of the frames of a video."""

from collections.abc import Sequence
from math import isqrt

from PIL import Image


def contact_sheet(frames: Sequence[Image.Image]) -> Image.Image:
    """Frames on one picture, in rows from the top left to the bottom right.

    Raises:
        ValueError: frames of different sizes.
    """
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) > 1:
        raise ValueError(f"frames of different sizes: {', '.join(f'{width}×{height}' for width, height in sizes)}")
    side, (width, height) = isqrt(len(frames)), sizes[0]
    sheet = Image.new("RGB", (side * width, side * height))
    for number, frame in enumerate(frames):
        sheet.paste(frame, (number % side * width, number // side * height))
    return sheet


def cut_sheet(sheet: Image.Image, frames: int) -> list[Image.Image]:
    """The frames of a sheet in order; a sheet whose sides are no multiple of the number in a row loses the rest."""
    side = isqrt(frames)
    width, height = sheet.width // side, sheet.height // side
    corners = [(number % side * width, number // side * height) for number in range(frames)]
    return [sheet.crop((left, top, left + width, top + height)) for left, top in corners]
