"""Pad pictures that are not square."""

from collections.abc import Sequence

from PIL import Image

MAX_SIDE = 1024
"""Longer side in pixels above which a picture is reduced before it is padded, so that no padding is large."""


def letterbox(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """A picture in the middle of a square of a colour; a square picture is returned as it is.

    Args:
        image: RGB.
        mean: colour in [0, 1]. With the mean of the normalization, padding is 0 for the model.
    """
    if image.width == image.height:
        return image
    if max(image.size) > MAX_SIDE:
        scale = MAX_SIDE / max(image.size)
        width, height = (max(1, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    side = max(image.size)
    red, green, blue = (round(255 * value) for value in mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
