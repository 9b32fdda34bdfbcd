"""Formats of images: which are read, with which package, and the error for what is none of them."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError, features

from data.errors import UserError
from data.messages import excerpt

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
    "DICOM": (".dcm", ".dicom"),
}
"""Supported formats by Pillow's name, with their file name endings. DICOM is read by pydicom."""
IMAGE_ENDINGS = tuple(ending for endings in FORMATS.values() for ending in endings)
BRANDS = {
    "AVIF": {b"avif", b"avis"},
    "HEIF": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"},
}
"""Compatible brands in the ``ftyp`` box. AVIF comes first, because AVIF files may also list the general ``mif1``."""
PACKAGES = {"AVIF": "pillow-avif-plugin", "HEIF": "pillow-heif", "DICOM": "pydicom", "video": "av"}
"""Packages for formats that Pillow cannot always read by itself."""
NOT_AN_IMAGE = f"not a readable {', '.join(FORMATS)} image"


class BadImageError(UserError):
    """An image that cannot be read."""


def formats_of(data: bytes) -> list[str]:
    """Formats that Pillow should try: AVIF or HEIF if the first bytes name it, all other formats otherwise.

    Registers the package that reads AVIF or HEIF.

    Raises:
        BadImageError: an AVIF or HEIF image, and that package is not installed.
    """
    named = image_brand(data)
    if named is None:
        return [name for name in FORMATS if name not in PACKAGES]
    with explain_missing_package(named):
        if named == "HEIF" and named not in Image.OPEN:
            importlib.import_module("pillow_heif").register_heif_opener()
        if named == "AVIF" and not features.check("avif"):
            importlib.import_module("pillow_avif")  # registers itself
    return [named]


def image_brand(data: bytes) -> str | None:
    """AVIF or HEIF if the first bytes name it."""
    brands = {data[i : i + 4] for i in range(8, min(int.from_bytes(data[:4], "big"), 256), 4) if i != 12}
    return next((name for name in BRANDS if data[4:8] == b"ftyp" and brands & BRANDS[name]), None)


@contextmanager
def explain_missing_package(image_format: str) -> Iterator[None]:
    """Say which package a format needs, if it is not installed."""
    try:
        yield
    except ImportError as error:
        what = "a video" if image_format == "video" else f"an image in the format {image_format}"
        needs = f"{what}, which needs: pip install {PACKAGES[image_format]}"
        raise BadImageError(needs) from error


@contextmanager
def explain_decoder_errors(what: str = NOT_AN_IMAGE) -> Iterator[None]:
    """Convert exceptions of decoders, which may be of any type, to `BadImageError`."""
    try:
        yield
    except BadImageError:
        raise
    except Exception as error:
        cause = "" if isinstance(error, UnidentifiedImageError) else f": {excerpt(str(error))}"
        raise BadImageError(f"{what}{cause}") from error
