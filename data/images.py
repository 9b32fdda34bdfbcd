"""The one place where image bytes become pixels; training, evaluation and prediction all come here."""

import errno
import hashlib
import importlib
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError, features

from data.errors import UserError
from data.messages import excerpt
from data.value_range import ValueRange, kind_of, measure, to_eight_bit

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""What is read, by Pillow's name, and the endings of such files."""
IMAGE_ENDINGS = tuple(ending for endings in FORMATS.values() for ending in endings)
BRANDS = {
    "AVIF": {b"avif", b"avis"},
    "HEIF": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"},
}
"""By what a file says it is compatible with; AVIF comes first, since it may also name the general ``mif1``."""
PACKAGES = {"AVIF": "pillow-avif-plugin", "HEIF": "pillow-heif"}
"""What lets Pillow read a format that it does not read by itself."""
MAX_PIXELS = 100_000_000
MAX_PATH = 4096
"""Characters of a path; common systems take no more."""
ADDRESS = re.compile(r"(?i)(data:|[a-z][a-z0-9+.-]+://)")
"""How an address begins; a drive of Windows has one letter."""


class BadImageError(UserError):
    """An image that cannot be read; the message says why."""


def is_address(path: str) -> bool:
    """Whether it names something on the network, or holds the image itself, and is no path of a file."""
    return ADDRESS.match(path) is not None


def read_image(image: str | Path | bytes | dict) -> bytes:
    """The encoded bytes of an image given as path, as bytes, or as the ``{"bytes", "path"}`` of `datasets`."""
    if isinstance(image, dict):
        return read_image(image["path"] if image.get("bytes") is None else image["bytes"])
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | Path):
        raise BadImageError(f"expected a file or its bytes, got {type(image).__name__}")
    try:
        if not stat.S_ISREG(os.stat(image).st_mode):  # reading a pipe or a device may never end
            raise BadImageError("cannot open the file: it is a folder or a device")
        return Path(image).read_bytes()
    except BadImageError:
        raise
    except (OSError, ValueError) as error:  # a path with a NUL character is a ValueError
        raise BadImageError(f"cannot open the file: {explain_path(str(image), error)}") from error


def explain_path(path: str, error: OSError | ValueError | None = None) -> str:
    """Why there is no such file, and what to do."""
    if path.lower().startswith("data:"):
        return "it is a data: address; decode it, and give a file or its bytes"
    if is_address(path):
        return "it is an address, and nothing is downloaded; download the images and give their paths"
    if len(path) > MAX_PATH or getattr(error, "errno", None) == errno.ENAMETOOLONG:
        return "it is too long; an image in base64 is to be decoded to a file or its bytes"
    if not isinstance(error, OSError):
        return "it has characters that no path can have"
    reason = error.strerror or str(error)
    return f"{reason}; write / where the path has \\" if "\\" in path and os.sep == "/" else reason


def decode_image(
    image: str | Path | bytes | dict | Image.Image, max_pixels: int = MAX_PIXELS, *, value_range: ValueRange = None
) -> Image.Image:
    """Decode to 8-bit RGB, upright, first frame; transparency on white.

    Args:
        image: a file, its bytes, the ``{"bytes", "path"}`` of `datasets`, or a picture of any mode.
        max_pixels: most pixels of a file.
        value_range: of pictures of more than 8 bits, the values that become black and white, as
            ``ImageTextConfig.value_range`` has them; by default the usual range (8, 10, 12, 14 or 16 bits, 0 to 1, -1
            to 1) that holds all values of the picture, or else its lowest and highest value.

    Raises:
        BadImageError: missing, truncated, not one of `FORMATS`, without pixels, or larger than ``max_pixels``.
    """
    if isinstance(image, Image.Image):
        with explain_decoder_errors(f"cannot convert a picture of mode {image.mode}"):
            return to_upright_rgb(image, value_range)
    data = read_image(image)
    with explain_decoder_errors():
        return to_upright_rgb(open_image(data, max_pixels), value_range)


def decode_and_measure(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, tuple]:
    """As `decode_image` decodes bytes by default, and the `data.value_range.VALUES` of the picture."""
    with explain_decoder_errors():
        image = open_image(data, max_pixels)
        return to_upright_rgb(image, None), measure(image)


def to_upright_rgb(image: Image.Image, value_range: ValueRange) -> Image.Image:
    """As `decode_image` gives it."""
    if not (image.width and image.height):
        raise BadImageError(f"{image.width}×{image.height} has no pixels")
    image = ImageOps.exif_transpose(image)
    if kind_of(image):
        return to_eight_bit(image, value_range).convert("RGB")
    if image.mode == "La":  # which Pillow converts to nothing else
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Open and load the first frame. Format by content, size checked before a pixel is decoded."""
    image = read_header(data)
    if image.width * image.height > max_pixels:
        raise BadImageError(f"{image.width}×{image.height} is more than the {max_pixels:,} pixels allowed")
    image.load()
    return image


def read_header(data: bytes) -> Image.Image:
    """The picture before its pixels are decoded; large ones are for the caller to refuse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data), formats=formats_of(data))


def count_pixels(image: str | Path | bytes) -> int:
    """As its header says; 0 where it cannot be read."""
    try:
        with explain_decoder_errors(), read_header(read_image(image)) as opened:
            return opened.width * opened.height
    except BadImageError:
        return 0


def formats_of(data: bytes) -> list[str]:
    """The format that the first bytes name, if it is AVIF or HEIF, else all others; Pillow can read them afterwards.

    Raises:
        BadImageError: an AVIF or HEIF image, and the package that reads it is not installed.
    """
    brands = {data[i : i + 4] for i in range(8, min(int.from_bytes(data[:4], "big"), 256), 4) if i != 12}
    named = next((name for name in BRANDS if data[4:8] == b"ftyp" and brands & BRANDS[name]), None)
    if named is None:
        return [name for name in FORMATS if name not in BRANDS]
    try:
        if named == "HEIF" and named not in Image.OPEN:
            importlib.import_module("pillow_heif").register_heif_opener()
        if named == "AVIF" and not features.check("avif"):
            importlib.import_module("pillow_avif")  # registers itself
    except ImportError as error:
        raise BadImageError(f"an image in the format {named}, which needs: pip install {PACKAGES[named]}") from error
    return [named]


@contextmanager
def explain_decoder_errors(what: str = f"not a readable {', '.join(FORMATS)} image") -> Iterator[None]:
    """Turn what decoders raise, which may be anything, into a `BadImageError`."""
    try:
        yield
    except BadImageError:
        raise
    except Exception as error:
        cause = "" if isinstance(error, UnidentifiedImageError) else f": {excerpt(str(error))}"
        raise BadImageError(f"{what}{cause}") from error


def content_key(data: bytes) -> str:
    """What makes two images the same image, and two texts the same text: their bytes, whatever their names."""
    return hashlib.sha256(data).hexdigest()[:20]
