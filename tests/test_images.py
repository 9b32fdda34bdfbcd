"""Decoding: every kind of image becomes the right RGB pixels."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image, features
from PIL.PngImagePlugin import PngImageFile
from two_colors import BLACK, BLUE, HEIC, RED, SIDE, WHITE, corners, encode, left_right

from benchmarks.photos import photo
from data import BadImageError, decode_image
from data import images as data_images
from data.hashing import content_key
from data.value_range import EIGHT_BIT


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encode(left_right(RED, BLUE)), (RED, BLUE)),
        (encode(left_right(0, 255, "L")), (BLACK, WHITE)),
        (encode(left_right(0, 1, "1")), (BLACK, WHITE)),
        (encode(left_right(RED, BLUE).quantize(4)), (RED, BLUE)),
        (encode(left_right((255, 0, 0, 255), (0, 0, 255, 0), "RGBA")), (RED, WHITE)),
        (encode(left_right((0, 255), (0, 0), "LA")), (BLACK, WHITE)),
        (encode(left_right((0, 255, 255, 0), (0, 0, 0, 255), "CMYK"), "TIFF"), (RED, BLACK)),
        (encode(left_right(RED, BLUE), "BMP"), (RED, BLUE)),
        (encode(left_right(RED, BLUE).quantize(4), "TIFF"), (RED, BLUE)),
        (encode(left_right(RED, BLUE), "TIFF", save_all=True, append_images=[left_right(BLUE, RED)]), (RED, BLUE)),
        (encode(left_right(RED, BLUE), "WEBP", lossless=True), (RED, BLUE)),
        (encode(left_right(RED, BLUE), "GIF", save_all=True, append_images=[left_right(BLUE, RED)]), (RED, BLUE)),
    ],
    ids=[
        "rgb",
        "grey",
        "bits",
        "palette",
        "alpha",
        "grey-alpha",
        "cmyk",
        "bmp",
        "palette tiff",
        "pages",
        "webp",
        "animated",
    ],
)
def test_every_kind_of_image_becomes_the_right_rgb(data, expected):
    image = decode_image(data)
    assert image.mode == "RGB"
    assert corners(image) == expected


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read():
    assert corners(decode_image(encode(left_right(BLACK, WHITE), "AVIF", quality=100))) == (BLACK, WHITE)


def test_lab_becomes_rgb():
    dark, light = corners(decode_image(encode(left_right((0, 128, 128), (255, 128, 128), "LAB"), "TIFF")))
    assert max(dark) < 5
    assert min(light) > 250


def test_a_transparent_palette_colour_becomes_white():
    image = left_right(RED, BLUE).quantize(4)
    transparent = image.getpixel((SIDE - 1, 0))
    assert corners(decode_image(encode(image, transparency=transparent))) == (RED, WHITE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B"])
@pytest.mark.parametrize("mode_with_alpha", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_an_image_of_any_mode_and_shape_becomes_rgb(mode, mode_with_alpha):
    for size in ((1, 1), (1, 20_000), (20_000, 1)):
        for picture in (Image.new(mode, size), Image.new(mode_with_alpha, size)):
            image = decode_image(picture)
            assert (image.mode, image.size) == ("RGB", size)


def test_the_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 3
    image = decode_image(encode(left_right(RED, BLUE), exif=exif))
    assert corners(image) == (BLUE, RED)


def test_path_bytes_and_dict_give_the_same_pixels(tmp_path):
    data = encode(left_right(RED, BLUE))
    (tmp_path / "x.png").write_bytes(data)
    forms = [data, tmp_path / "x.png", str(tmp_path / "x.png"), {"bytes": data, "path": None}]
    forms += [{"bytes": None, "path": str(tmp_path / "x.png")}, Image.open(io.BytesIO(data))]
    assert len({decode_image(form).tobytes() for form in forms}) == 1


@pytest.mark.parametrize(
    ("size", "side", "decoded"),
    [
        ((1800, 900), 100, (900, 450)),
        ((1800, 890), 100, (1800, 890)),
        ((3700, 3600), 224, (463, 450)),
        ((1800, 900), 240, (1800, 900)),
        ((1800, 900), None, (1800, 900)),
    ],
)
def test_a_large_jpeg_file_is_decoded_smaller_and_looks_the_same(size, side, decoded):
    data = photo(0, size)
    small, whole = decode_image(data, side=side), decode_image(data)
    assert (small.size, whole.size) == (decoded, size)
    square = (side or 100, side or 100)
    pixels = [np.asarray(image.resize(square, Image.Resampling.BILINEAR), dtype=float) for image in (small, whole)]
    assert np.sqrt(np.mean((pixels[0] - pixels[1]) ** 2)) < 1.5, "of 255"


def test_a_large_jpeg_file_is_checked_at_a_part_of_its_size_and_measured_as_a_whole(monkeypatch):
    exif, decoded = Image.Exif(), []
    exif[0x0112] = 6
    data = encode(Image.open(io.BytesIO(photo(0, (1800, 900)))), "JPEG", exif=exif)
    upright = data_images.to_upright_rgb
    monkeypatch.setattr(
        data_images, "to_upright_rgb", lambda image, *rest: decoded.append(image) or upright(image, *rest)
    )
    assert data_images.check_and_measure([data]) == ((900, 1800), EIGHT_BIT)
    assert [image.size for image in decoded] == [(900, 450)]
    with pytest.raises(BadImageError, match="truncated"):
        data_images.check_and_measure([data[: len(data) // 2]])


def test_other_files_and_pictures_keep_their_pixels_and_a_smaller_jpeg_file_its_orientation():
    picture = left_right(RED, BLUE).resize((1800, 900))
    assert decode_image(encode(picture), side=100).size == (1800, 900)
    assert decode_image(picture, side=100).size == (1800, 900)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    turned = decode_image(encode(picture, "JPEG", exif=exif), side=100)
    assert turned.size == (450, 900)
    assert np.abs(np.subtract(turned.getpixel((225, 10)), RED)).max() < 5
    assert np.abs(np.subtract(turned.getpixel((225, 890)), BLUE)).max() < 5


def test_heic_is_read_if_its_library_is_installed(monkeypatch):
    registered, png = [], io.BytesIO(encode(left_right(RED, BLUE)))

    def register_heif_opener():
        registered.append(1)
        Image.register_open("HEIF", lambda file, name: PngImageFile(png), lambda start: start[4:8] == b"ftyp")

    module = types.SimpleNamespace(register_heif_opener=register_heif_opener)
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    decode_image(encode(left_right(RED, BLUE)))
    assert not registered, "not before it is needed"
    assert corners(decode_image(HEIC)) == (RED, BLUE)
    png.seek(0)
    assert corners(decode_image(HEIC)) == (RED, BLUE)
    assert len(registered) == 1


def test_equal_bytes_are_the_same_image():
    assert content_key(b"a") == content_key(b"a") != content_key(b"b")
