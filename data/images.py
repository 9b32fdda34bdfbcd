"""Decode images. Training, evaluation and prediction all use `decode_image`."""

import errno
import hashlib
import importlib
import io
import math
import os
import re
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from data.contact_sheet import contact_sheet, cut_sheet
from data.dicom import is_dicom, num_pixels, open_dicom
from data.errors import UserError
from data.messages import excerpt
from data.value_range import EIGHT_BIT, VALUE_STATS, ValueRange, choose_ranges, kind_of, measure, to_eight_bit
from data.videos import MAX_SIDE, animation_frames, frame_files, is_video, reduced, video_frames

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
MAX_PIXELS = 100_000_000
JPEG_START = b"\xff\xd8\xff"
SPARE = 2
"""Height and width of a reduced JPEG file are at least this many times those of the picture that is wanted."""
SHOWN = 448
"""Height and width in pixels that it keeps to be shown to people."""
MAX_PATH = 4096
"""Characters of a path, the limit of common systems."""
ADDRESS = re.compile(r"(?i)(data:|[a-z][a-z0-9+.-]+://)")
"""Start of a URL or ``data:`` URI. A Windows drive has a single letter."""


class BadImageError(UserError):
    """An image that cannot be read."""


def is_address(path: str) -> bool:
    """Whether the string is a URL or a ``data:`` URI."""
    return ADDRESS.match(path) is not None


def read_image(image: str | Path | bytes | dict) -> bytes:
    """Encoded bytes of an image: a path, bytes, or the ``{"bytes", "path"}`` of `datasets`."""
    if isinstance(image, dict):
        return read_image(image["path"] if image.get("bytes") is None else image["bytes"])
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | Path):
        raise BadImageError(f"expected a file or its bytes, got {type(image).__name__}")
    try:
        if not stat.S_ISREG(os.stat(image).st_mode):  # reading a pipe or a device may block forever
            raise BadImageError("cannot open the file: it is a folder or a device")
        return Path(image).read_bytes()
    except BadImageError:
        raise
    except (OSError, ValueError) as error:  # a NUL character in a path raises ValueError
        raise BadImageError(f"cannot open the file: {explain_path(str(image), error)}") from error


def read_frames(image: str | Path | bytes | dict, frames: int) -> list[bytes]:
    """Encoded bytes of an image or a video file; of a folder of frames, those of its evenly spaced files.

    Args:
        frames: see `decode_image`; with 1 a folder is refused.
    """
    path = image.get("path") if isinstance(image, dict) and image.get("bytes") is None else image
    if frames == 1 or not isinstance(path, str | Path) or not os.path.isdir(path):
        return [read_image(image)]
    with explain_decoder_errors("not a folder of frames"):
        files = frame_files(path, IMAGE_ENDINGS, frames)
    return [read_image(file) for file in files]


def explain_path(path: str, error: OSError | ValueError | None = None) -> str:
    """Why a path cannot be opened, and what to do."""
    if path.lower().startswith("data:"):
        return "it is a data: address; decode it, and give a file or its bytes"
    if is_address(path):
        return "it is an address, and nothing is downloaded; download the images and give their paths"
    if len(path) > MAX_PATH or getattr(error, "errno", None) == errno.ENAMETOOLONG:
        return "it is too long; if it is an image in base64, decode it to a file or to bytes"
    if not isinstance(error, OSError):
        return "it has characters that no path can have"
    reason = error.strerror or str(error)
    return f"{reason}; write / where the path has \\" if "\\" in path and os.sep == "/" else reason


def decode_image(
    image: str | Path | bytes | dict | Image.Image,
    max_pixels: int = MAX_PIXELS,
    *,
    value_range: ValueRange = None,
    frames: int = 1,
    side: int | None = None,
) -> Image.Image:
    """Decode to 8-bit RGB: the first frame, EXIF orientation applied, transparent pixels on white.

    With several ``frames``, a video becomes a square sheet of its frames, evenly spaced in time, the first at the top
    left (`data.videos`). A video is a video file, an animated or multi-page picture, or a folder of pictures in the
    order of their names. Any other picture is taken for a sheet.

    Args:
        image: a file, its bytes, the ``{"bytes", "path"}`` of `datasets`, or a Pillow image of any mode.
        max_pixels: limit for encoded images.
        value_range: values of images of more than 8 bits that become black and white. By default the narrowest usual
            range (8, 10, 12, 14 or 16 bits, 0 to 1, -1 to 1) that contains all values of the image, or its lowest and
            highest value, see `data.value_range.range_of`.
        frames: number of frames, one of `data.videos.FrameNumber`.
        side: height and width in pixels to which the picture will be resized, see `reduce_jpeg`.

    Raises:
        BadImageError: missing, truncated, not one of `FORMATS`, without pixels, or larger than ``max_pixels``.
    """
    if isinstance(image, Image.Image):
        with explain_decoder_errors(f"cannot convert a picture of mode {image.mode}"):
            picture = to_upright_rgb(image, value_range)
            return picture if frames == 1 else as_sheet(picture, frames)
    parts = read_frames(image, frames)
    with explain_decoder_errors(what_is_expected(frames)):
        return decode_parts(parts, max_pixels, value_range, frames, side)[0]


def check_and_measure(
    parts: Sequence[bytes], max_pixels: int = MAX_PIXELS, frames: int = 1
) -> tuple[tuple[int, int], tuple]:
    """Check that `decode_image` can read what `read_frames` gave, and measure the values of the frames together.

    Returns:
        width and height of the picture, and its `data.value_range.VALUE_STATS`.
    """
    with explain_decoder_errors(what_is_expected(frames)):
        if frames == 1 and parts[0].startswith(JPEG_START):  # a damaged file is found at any size
            image = open_image(parts[0], max_pixels, side=1)
            is_turned = to_upright_rgb(image, None).size != image.size
            width, height = read_header(parts[0]).size
            return (height, width) if is_turned else (width, height), EIGHT_BIT
        picture, stats = decode_parts(parts, max_pixels, None, frames)
        return picture.size, stats


def what_is_expected(frames: int) -> str:
    return NOT_AN_IMAGE if frames == 1 else "not a readable video, nor a sheet of frames"


def decode_parts(
    parts: Sequence[bytes], max_pixels: int, value_range: ValueRange, frames: int, side: int | None = None
) -> tuple[Image.Image, tuple]:
    """The picture or sheet in 8-bit RGB, and its `data.value_range.VALUE_STATS`, see `decode_image`.

    Frames of more than 8 bits have one range together.
    """
    if frames == 1:
        image = open_image(parts[0], max_pixels, side)
        return to_upright_rgb(image, value_range), measure(image)
    found: list[Image.Image] = []
    stats: list[tuple] = []
    for frame in open_frames(parts, frames, max_pixels):
        stats.append(measure(frame))
        found.append(frame if kind_of(frame) else reduced(to_upright_rgb(frame, None)))
    together = measure_together(stats)
    if value_range is None:
        value_range = choose_ranges(np.array([together], dtype=VALUE_STATS))
    sheet = contact_sheet([reduced(to_upright_rgb(frame, value_range)) if kind_of(frame) else frame for frame in found])
    return (as_sheet(sheet, frames) if len(found) == 1 else sheet), together


def open_frames(parts: Sequence[bytes], frames: int, max_pixels: int) -> Iterator[Image.Image]:
    """The frames of a video one by one, before they are converted to 8-bit RGB; of a sheet, the sheet."""
    if len(parts) > 1:
        yield from (open_image(data, max_pixels) for data in parts)
    elif is_video(parts[0]) and not image_brand(parts[0]):
        with explain_missing_package("video"):
            yield from video_frames(parts[0], frames, max_pixels)
    else:
        image = open_image(parts[0], max_pixels)
        is_animation = image.format == "GIF" or getattr(image, "n_frames", 1) > 1
        yield from animation_frames(image, frames, max_pixels) if is_animation else [image]


def as_sheet(picture: Image.Image, frames: int) -> Image.Image:
    """A picture that is a sheet already, with its frames reduced.

    Raises:
        BadImageError: fewer pixels than frames.
    """
    if min(picture.size) < math.isqrt(frames):
        raise BadImageError(f"{picture.width}×{picture.height} pixels, too few for a sheet of {frames} frames")
    return contact_sheet([reduced(frame) for frame in cut_sheet(picture, frames)])


def measure_together(stats: Sequence[tuple]) -> tuple:
    """`data.value_range.VALUE_STATS` of the frames of a video, which are all of one kind or of 8 bits."""
    kinds, lows, highs, finite = zip(*stats, strict=True)
    if max(kinds) < 0:
        return EIGHT_BIT
    return max(kinds), float(np.nanmin(lows)), float(np.nanmax(highs)), all(finite)


def to_upright_rgb(image: Image.Image, value_range: ValueRange) -> Image.Image:
    """Convert to 8-bit RGB, see `decode_image`."""
    if not (image.width and image.height):
        raise BadImageError(f"{image.width}×{image.height} has no pixels")
    image = ImageOps.exif_transpose(image)
    if kind_of(image):
        return to_eight_bit(image, value_range).convert("RGB")
    if image.mode == "La":  # Pillow converts this mode only to LA
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def open_image(data: bytes, max_pixels: int, side: int | None = None) -> Image.Image:
    """Decode the first frame. The content decides the format; the size is checked before decoding.

    Args:
        side: see `reduce_jpeg`.
    """
    if is_dicom(data):
        with explain_missing_package("DICOM"):
            return open_dicom(data, max_pixels)
    if is_video(data) and not image_brand(data):
        raise BadImageError("a video, where a picture was expected; in training, --data.frames 9 reads videos")
    image = read_header(data)
    if image.width * image.height > max_pixels:
        raise BadImageError(f"{image.width}×{image.height} is more than the {max_pixels:,} pixels allowed")
    if side is not None:
        reduce_jpeg(image, side)
    image.load()
    return image


def reduce_jpeg(image: Image.Image, side: int) -> None:
    """Let a JPEG file be decoded at a half, a quarter or an eighth of its size, several times as fast.

    Height and width stay at least `SPARE` times ``side`` and at least `SHOWN` pixels, so that what is left of the
    resizing gives the same picture to rounding, and the picture can be shown. Other files stay as they are.

    Args:
        image: opened, not yet loaded.
        side: height and width in pixels to which the picture will be resized.
    """
    least = max(SPARE * side, SHOWN)
    image.draft(None, (least, least))


def read_header(data: bytes) -> Image.Image:
    """Open an image without decoding its pixels. The caller checks its size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data), formats=formats_of(data))


def count_pixels(image: str | Path | bytes, frames: int = 1) -> int:
    """Number of pixels according to the header; 0 if it cannot be read. Of a video at least those of a large sheet."""
    least = frames * MAX_SIDE**2 if frames > 1 else 0
    try:
        with explain_decoder_errors():
            data = read_image(image)
            if is_dicom(data):
                return num_pixels(data)
            if frames > 1 and is_video(data) and not image_brand(data):
                return least
            with read_header(data) as opened:
                return max(least, opened.width * opened.height)
    except BadImageError:
        return 0


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


def content_key(data: bytes) -> str:
    """Hash of encoded bytes. Equal keys mean equal images or texts, whatever their names."""
    return hashlib.sha256(data).hexdigest()[:20]
