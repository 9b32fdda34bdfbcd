"""The one place where image bytes become pixels; training, evaluation and prediction all come here."""

import hashlib
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 100_000_000


class BadImageError(ValueError):
    """An image that cannot be read; the message says why."""


def read_image(image: str | Path | bytes | dict) -> bytes:
    """The encoded bytes of an image given as path, as bytes, or as the ``{"bytes", "path"}`` of `datasets`."""
    if isinstance(image, dict):
        return read_image(image["path"] if image.get("bytes") is None else image["bytes"])
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | Path):
        raise BadImageError(f"expected a file or its bytes, got {type(image).__name__}")
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot open the file: {error.strerror or error}") from error


def decode_image(image: str | Path | bytes | dict | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode to 8-bit RGB, upright, first frame; transparency on white, 16-bit grey scaled to 8 bit.

    Raises:
        BadImageError: missing, truncated, not one of `FORMATS`, or larger than ``max_pixels``.
    """
    if not isinstance(image, Image.Image):
        data = read_image(image)
        with explain_decoder_errors():
            return to_upright_rgb(open_image(data, max_pixels))
    return to_upright_rgb(image)


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """As `decode_image` gives it."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(to_eight_bit(np.asarray(image))).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Open and load the first frame. Format by content, size checked before a pixel is decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > max_pixels:
        raise BadImageError(f"{image.width}×{image.height} is more than the {max_pixels:,} pixels allowed")
    image.load()
    return image


def count_pixels(image: str | Path | bytes) -> int:
    """As its header says; 0 where it cannot be read."""
    try:
        with explain_decoder_errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(read_image(image)), formats=FORMATS) as opened:
                return opened.width * opened.height
    except BadImageError:
        return 0


@contextmanager
def explain_decoder_errors() -> Iterator[None]:
    """Turn what decoders raise into a `BadImageError`."""
    try:
        yield
    except BadImageError:
        raise
    except (OSError, ValueError, SyntaxError, struct.error, MemoryError, Image.DecompressionBombError) as error:
        cause = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise BadImageError(f"not a readable {', '.join(FORMATS)} image{cause}") from error


def to_eight_bit(pixels: np.ndarray) -> np.ndarray:
    """Grey of more than 8 bit: integers scale from [0, 65535], floating point from [0, 1], both clipped."""
    top = np.float32(1.0 if np.issubdtype(pixels.dtype, np.floating) else 65535.0)
    grey = pixels.astype(np.float32)
    np.nan_to_num(grey, copy=False)
    grey.clip(0, top, out=grey)
    grey *= 255 / top
    return grey.round(out=grey).astype(np.uint8)


def content_key(data: bytes) -> str:
    """What makes two images the same image, and two texts the same text: their bytes, whatever their names."""
    return hashlib.sha256(data).hexdigest()[:20]
