import io
import os
import struct
import sys
import types
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features
from PIL.PngImagePlugin import PngImageFile

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


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B"])
@pytest.mark.parametrize("mode_with_alpha", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_an_image_of_any_mode_and_shape_becomes_rgb(mode, mode_with_alpha):
    for size in ((1, 1), (1, 20_000), (20_000, 1)):
        for picture in (Image.new(mode, size), Image.new(mode_with_alpha, size)):
            image = decode_image(picture)
            assert (image.mode, image.size) == ("RGB", size)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(size):
    with pytest.raises(BadImageError, match=f"{size[0]}×{size[1]} has no pixels"):
        decode_image(Image.new("RGB", size))


def test_a_failed_conversion_is_a_bad_image():
    image = Image.new("L", (4, 4))
    image.info["transparency"] = b"\0\1"
    with pytest.raises(BadImageError, match="cannot convert a picture of mode L"):
        decode_image(image)
    closed = Image.open(io.BytesIO(encode(left_right(RED, BLUE))))
    closed.close()
    with pytest.raises(BadImageError, match="cannot convert a picture of mode RGB"):
        decode_image(closed)


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
def test_an_invalid_or_truncated_image_is_refused(data, message):
    with pytest.raises(BadImageError, match=message):
        decode_image(data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_invalid_exif_is_a_bad_image(kind):
    data = encode(left_right(RED, BLUE), kind, exif=b"Exif\0\0no tiff header")
    with pytest.raises(BadImageError, match="not a readable"):
        decode_image(data)


def test_too_many_pixels_are_refused_before_they_are_decoded():
    with pytest.raises(BadImageError, match="20×20 is more than the 300 pixels allowed"):
        decode_image(encode(Image.new("RGB", (20, 20))), max_pixels=300)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100
AVIF = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + b"\0" * 100


def test_a_format_whose_library_is_missing_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr("data.images.features.check", lambda name: False)
    for module in ("pillow_heif", "pillow_avif"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "photo.heic").write_bytes(HEIC)
    with pytest.raises(BadImageError, match="format HEIF, which needs: pip install pillow-heif"):
        decode_image(tmp_path / "photo.heic")
    with pytest.raises(BadImageError, match="format AVIF, which needs: pip install pillow-avif-plugin"):
        decode_image(AVIF)


def test_heic_is_read_where_its_library_is_installed(monkeypatch):
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


def test_a_video_is_not_an_image():
    with pytest.raises(BadImageError, match="not a readable"):
        decode_image(b"\0\0\0\x18ftypisom\0\0\0\0isommp41" + b"\0" * 100)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://example.org/a.png", "it is an address, and nothing is downloaded; download the images"),
        ("gs://bucket/a.png", "it is an address"),
        ("file:///tmp/a.png", "it is an address"),
        ("data:image/png;base64," + "A" * 5000, "it is a data: address; decode it"),
        ("iVBOR" + "A" * 5000, "it is too long; if it is an image in base64"),
        ("a\0b.png", "it has characters that no path can have"),
        ("C:\\images\\a.png", "No such file or directory; write / where the path has"),
        ("/", "it is a folder or a device"),
        ("/dev/zero", "it is a folder or a device"),
    ],
)
def test_an_invalid_path_says_what_is_wrong(path, message):
    with pytest.raises(BadImageError, match=f"cannot open the file: {message}") as caught:
        decode_image(path)
    assert len(str(caught.value)) < 200


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with a name")
def test_a_pipe_is_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImageError, match="a folder or a device"):
        decode_image(tmp_path / "pipe.png")


def test_a_missing_file_is_refused():
    with pytest.raises(BadImageError, match="No such file"):
        decode_image("/nowhere/x.png")


def test_equal_bytes_are_the_same_image():
    assert content_key(b"a") == content_key(b"a") != content_key(b"b")
