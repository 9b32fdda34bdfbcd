import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import BadImageError, decode_image
from data.images import content_key

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
        (encode(left_right(RED, BLUE), "WEBP", lossless=True), (RED, BLUE)),
        (encode(left_right(RED, BLUE), "GIF", save_all=True, append_images=[left_right(BLUE, RED)]), (RED, BLUE)),
    ],
    ids=["rgb", "grey", "bits", "palette", "alpha", "grey-alpha", "cmyk", "bmp", "webp", "animated"],
)
def test_every_kind_of_picture_becomes_the_right_rgb(data, expected):
    image = decode_image(data)
    assert image.mode == "RGB"
    assert corners(image) == expected


def test_a_palette_with_a_transparent_colour_is_laid_on_white():
    image = left_right(RED, BLUE).quantize(4)
    transparent = image.getpixel((SIDE - 1, 0))
    assert corners(decode_image(encode(image, transparency=transparent))) == (RED, WHITE)


@settings(max_examples=20, deadline=None)
@given(level=st.integers(0, 65535))
def test_sixteen_bit_grey_is_scaled_not_clipped(level):
    data = encode(Image.fromarray(np.full((SIDE, SIDE), level, dtype=np.uint16)))
    assert decode_image(data).getpixel((0, 0))[0] == pytest.approx(level / 257, abs=1)


def test_floating_point_grey_spans_zero_to_one():
    pixels = np.tile(np.linspace(0, 1, SIDE, dtype=np.float32), (SIDE, 1))
    image = decode_image(encode(Image.fromarray(pixels), "TIFF"))
    assert corners(image) == (BLACK, WHITE)


def test_a_photograph_turned_by_its_exif_stands_upright():
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


def bomb_text() -> bytes:
    """A small PNG with a text chunk that unpacks to 50 MB."""
    chunk = b"zTXt" + b"k\0\0" + zlib.compress(b"a" * 50_000_000)
    text = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    png = encode(left_right(RED, BLUE))
    return png[:33] + text + png[33:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable"),
        (b"hello", "not a readable"),
        (encode(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")[:400], "(?i)truncated"),
        (encode(left_right(RED, BLUE))[:-30], "not a readable"),
        (encode(left_right(RED, BLUE), "PDF"), "not a readable"),
        (encode(left_right(RED, BLUE), "EPS"), "not a readable"),
        (bomb_text(), "not a readable"),
    ],
    ids=["empty", "text", "truncated jpeg", "truncated png", "pdf", "eps", "text bomb"],
)
def test_what_is_no_whole_picture_is_refused(data, message):
    with pytest.raises(BadImageError, match=message):
        decode_image(data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_breaks_while_its_exif_is_read_is_a_fault_of_the_picture(kind):
    data = encode(left_right(RED, BLUE), kind, exif=b"Exif\0\0no tiff header")
    with pytest.raises(BadImageError, match="not a readable"):
        decode_image(data)


def test_too_many_pixels_are_refused_before_they_are_decoded():
    with pytest.raises(BadImageError, match="20×20 is more than the 300 pixels allowed"):
        decode_image(encode(Image.new("RGB", (20, 20))), max_pixels=300)


def test_a_missing_file_is_refused_with_the_reason():
    with pytest.raises(BadImageError, match="No such file"):
        decode_image("/nowhere/x.png")


def test_equal_bytes_are_the_same_image():
    assert content_key(b"a") == content_key(b"a") != content_key(b"b")
