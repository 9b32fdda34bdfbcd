"""Images that are refused: damaged files, too many pixels, missing libraries, invalid paths."""

import io
import os
import struct
import sys
import zlib

import pytest
from PIL import Image
from two_colors import BLUE, HEIC, RED, encode, left_right

from data import BadImageError, decode_image


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


AVIF = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + b"\0" * 100


def test_a_format_whose_library_is_missing_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr("data.image_formats.features.check", lambda name: False)
    for module in ("pillow_heif", "pillow_avif"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "photo.heic").write_bytes(HEIC)
    with pytest.raises(BadImageError, match="format HEIF, which needs: pip install pillow-heif"):
        decode_image(tmp_path / "photo.heic")
    with pytest.raises(BadImageError, match="format AVIF, which needs: pip install pillow-avif-plugin"):
        decode_image(AVIF)


def test_a_video_is_not_an_image():
    with pytest.raises(BadImageError, match="a video, where a picture was expected"):
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
