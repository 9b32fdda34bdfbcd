"""Decode images. Training, evaluation and prediction all use `decode_image`."""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data.contact_sheet import contact_sheet, cut_sheet
from data.dicom import is_dicom, num_pixels, open_dicom
from data.image_files import read_frames, read_image
from data.image_formats import (
    NOT_AN_IMAGE,
    BadImageError,
    explain_decoder_errors,
    explain_missing_package,
    formats_of,
    image_brand,
)
from data.value_range import EIGHT_BIT, VALUE_STATS, ValueRange, choose_ranges, kind_of, measure, to_eight_bit
from data.videos import MAX_SIDE, animation_frames, is_video, reduced, video_frames

MAX_PIXELS = 100_000_000
JPEG_START = b"\xff\xd8\xff"
SPARE = 2
"""Height and width of a reduced JPEG file are at least this many times those of the picture that is wanted."""
SHOWN = 448
"""Height and width in pixels that it keeps to be shown to people."""


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
        BadImageError: missing, truncated, not one of `data.image_formats.FORMATS`, without pixels, or larger than
            ``max_pixels``.
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
    """Check that `decode_image` can read these files of a picture, and measure the values of its frames together.

    Args:
        parts: encoded bytes, from `data.image_files.read_frames`.
        max_pixels, frames: see `decode_image`.

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
