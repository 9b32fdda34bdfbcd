"""Pictures of two colours, one left and one right, in any format."""

import io

from PIL import Image

SIDE = 8


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def left_right(left, right, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (SIDE, SIDE), left)
    image.paste(right, (SIDE // 2, 0, SIDE, SIDE))
    return image


def corners(image: Image.Image) -> tuple:
    return image.getpixel((0, SIDE // 2)), image.getpixel((SIDE - 1, SIDE // 2))


BLACK, WHITE, RED, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100
"""The beginning of a HEIC file."""
