"""Images of more than 8 bits (12 bits stored in 16, CT values, floating point): which values are black and white."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from data.errors import UserError

ValueRange = Sequence[float] | Mapping[str, Sequence[float]] | None
"""Values ``(low, high)`` of black and white, or such a pair for each of `KINDS`; ``None``: chosen for each image."""
KINDS = ("integer", "float")
"""Kinds of pixel values of images of more than 8 bits; their format does not say which value is white."""
USUAL: tuple[tuple[float, float], ...] = ((0, 1), (-1, 1), *((0, 2**bits - 1) for bits in (8, 10, 12, 14, 16)))
"""Usual value ranges, from narrow to wide."""
OVERSHOOT = 0.05
"""How far floating-point values may exceed a range, as a share of their span, for example after resampling."""
LIMIT = 1e38
"""Largest magnitude of a value. Differences still fit in float32; larger values mark missing data."""
DIM = 1 / 8
"""An image that spans less than this share of the range is almost uniformly grey: 32 of 256 levels."""
VALUE_STATS = np.dtype([("kind", "i1"), ("low", "f8"), ("high", "f8"), ("is_finite", "?")])
"""Statistics of an image: index in `KINDS`, lowest and highest finite value, and whether all values are finite."""
EIGHT_BIT = (-1, np.nan, np.nan, True)
"""`VALUE_STATS` of an image of 8 bits a channel, which needs no range, and of a missing image."""


def kind_of(image: Image.Image) -> str | None:
    """One of `KINDS`; ``None`` for an image of 8 bits a channel."""
    if image.mode == "F":
        return "float"
    return "integer" if image.mode.startswith("I") else None


def measure(image: Image.Image) -> tuple[int, float, float, bool]:
    """`VALUE_STATS` of an image; lowest and highest are NaN if no value is finite. One with a window needs no range."""
    kind = kind_of(image)
    if kind is None or "window" in image.info:
        return EIGHT_BIT
    pixels = np.asarray(image)
    finite = np.isfinite(pixels) & (np.abs(pixels) <= LIMIT) if kind == "float" else np.ones(1, dtype=bool)
    if finite.all():
        return KINDS.index(kind), float(pixels.min()), float(pixels.max()), True
    if not finite.any():
        return KINDS.index(kind), np.nan, np.nan, False
    return KINDS.index(kind), float(pixels[finite].min()), float(pixels[finite].max()), False


def range_of(kind: str, low: float, high: float) -> tuple[float, float]:
    """The narrowest of the `USUAL` ranges that contains the values from low to high.

    If there is none, or if the image would be almost black in it (see `DIM`), the range is (low, high). Floating-point
    values may exceed ranges of up to 8 bits by `OVERSHOOT`. Integers that are all equal are read as 16 bit, because
    their bit depth is unknown.
    """
    if kind == "integer" and low == high and 0 <= low <= 65535:
        return USUAL[-1]
    for black, white in USUAL:
        more = OVERSHOOT * (high - low) if kind == "float" and white <= 255 else 0
        if black - more <= low and high <= white + more and (white == 1 or high > DIM * white):
            return black, white
    return low, high


def choose_ranges(values: np.ndarray) -> dict[str, list[float]] | None:
    """One range for all images of a kind, from their `VALUE_STATS`; ``None`` if all images have 8 bits."""
    found = {}
    for number, kind in enumerate(KINDS):
        of_kind = values[(values["kind"] == number) & ~np.isnan(values["low"])]
        if len(of_kind):
            found[kind] = [*map(float, range_of(kind, of_kind["low"].min(), of_kind["high"].max()))]
    return found or None


def check_range(setting: Sequence[float] | str) -> ValueRange:
    """The range given by ``data.value_range``; ``None`` for ``auto``.

    Raises:
        UserError: not two numbers in ascending order.
    """
    if setting == "auto":
        return None
    if isinstance(setting, str) or len(setting) != 2 or not -LIMIT <= setting[0] < setting[1] <= LIMIT:
        raise UserError(
            f"data.value_range must be auto or [LOW, HIGH], the values that are black and white, got {setting}."
        )
    return [float(value) for value in setting]


def to_eight_bit(image: Image.Image, value_range: ValueRange) -> Image.Image:
    """Map an image of one of `KINDS` linearly to 8-bit grey.

    The range becomes 0 to 255. Values outside it are clipped, NaN becomes black. An image with a window of its own
    (`data.dicom`) is mapped by it, unless the user chose a range. Without either, `range_of` chooses one from the
    image's own values.
    """
    kind = kind_of(image)
    assert kind is not None
    chosen = value_range.get(kind) if isinstance(value_range, Mapping) else value_range
    if "window" in image.info and (value_range is None or isinstance(value_range, Mapping)):
        chosen = image.info["window"]
    if chosen is None:
        _, *extremes, _ = measure(image)
        chosen = (0, 1) if np.isnan(extremes[0]) else range_of(kind, *extremes)
    pixels = np.asarray(image)
    low, high = map(float, chosen)
    grey = pixels.astype(np.float32)
    np.nan_to_num(grey, copy=False, nan=low, posinf=high, neginf=low)
    grey.clip(low, high, out=grey)
    grey -= low
    grey *= 255 / (high - low) if high > low else 0
    grey = grey.round(out=grey).astype(np.uint8)
    if image.info.get("is_inverted"):
        grey = 255 - grey
    if isinstance(hidden := image.info.get("transparency"), int):
        grey[pixels == hidden] = 255  # transparent pixels are shown on white
    return Image.fromarray(grey)
