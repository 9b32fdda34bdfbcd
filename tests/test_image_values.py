"""Images of more than eight bits: which values become 0 and 255."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from two_colors import BLUE, RED, SIDE, corners, encode, left_right

from data import decode_image


@settings(max_examples=20, deadline=None)
@given(level=st.integers(0, 65535))
def test_sixteen_bit_grey_is_scaled_not_clipped(level):
    data = encode(Image.fromarray(np.full((SIDE, SIDE), level, dtype=np.uint16)))
    assert decode_image(data).getpixel((0, 0))[0] == pytest.approx(level / 257, abs=1)


def grey(values, dtype) -> Image.Image:
    """A picture of one line."""
    return Image.fromarray(np.array([values], dtype=dtype))


def levels(image, **options) -> list[int]:
    return np.asarray(decode_image(image, **options))[0, :, 0].tolist()


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("float32", [0, 0.2, 0.5, 1], [0, 51, 128, 255]),
        ("float32", [-1, 0, 0.5, 1], [0, 128, 191, 255]),
        ("float32", [0, 51, 200, 255], [0, 51, 200, 255]),
        ("float32", [0, 3, 200.4, 254], [0, 3, 200, 254]),
        ("float32", [0, 819, 4095, 2000], [0, 51, 255, 125]),
        ("float32", [-1000, 0, 40, 1000], [0, 128, 133, 255]),
        ("float32", [0, NAN, 0.5, INF], [0, 0, 128, 255]),
        ("float32", [-INF, 1, 100, 255], [0, 1, 100, 255]),
        ("float32", [3e38, 1, 100, 255], [255, 1, 100, 255]),
        ("float32", [NAN, NAN, INF, -INF], [0, 0, 255, 0]),
        ("float32", [0.5, 0.5, 0.5, 0.5], [128, 128, 128, 128]),
        ("float32", [-7, -7, -7, -7], [0, 0, 0, 0]),
        ("int32", [-1024, 0, 40, 3071], [0, 64, 66, 255]),
        ("int32", [0, 51, 200, 255], [0, 51, 200, 255]),
        ("int32", [0, 100_000, 50_000, 20_000], [0, 255, 128, 51]),
        ("uint16", [0, 65535, 13107, 257], [0, 255, 51, 1]),
        ("uint16", [0, 4095, 819, 16], [0, 255, 51, 1]),
        ("uint16", [0, 700, 205, 1023], [0, 174, 51, 255]),
        (">u2", [0, 4095, 819, 16], [0, 255, 51, 1]),
        ("uint16", [257, 257, 257, 257], [1, 1, 1, 1]),
    ],
)
def test_the_pixel_values_decide_the_range_of_an_image_of_more_than_eight_bits(dtype, values, expected):
    image = grey(values, dtype)
    assert levels(image) == expected
    assert levels(encode(image, "TIFF")) == expected, "a file is read as the picture is"
    if dtype == "uint16":
        assert levels(encode(image, "PNG")) == expected


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_a_given_range_applies_to_every_image_and_clips(dtype):
    image = grey([-2000, -160, 40, 240, 3000], dtype)
    assert levels(image, value_range=(-160, 240)) == levels(encode(image, "TIFF"), value_range=(-160, 240))
    assert levels(image, value_range=(-160, 240)) == [0, 0, 128, 255, 255]
    assert levels(image, value_range={"float": (-160, 240), "integer": (-160, 240)}) == [0, 0, 128, 255, 255]


def test_a_range_does_not_change_images_of_eight_bits_or_of_the_other_kind():
    assert corners(decode_image(left_right(RED, BLUE), value_range=(0, 10))) == (RED, BLUE)
    assert levels(grey([0, 1], "float32"), value_range={"integer": (0, 4095)}) == [0, 255]


def test_transparent_pixels_of_sixteen_bits_become_white():
    assert levels(encode(grey([0, 13107, 65535, 0], "uint16"), transparency=0)) == [255, 51, 255, 255]
