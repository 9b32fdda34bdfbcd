"""Unusual and hostile inputs, generated: images of all formats, damaged images, texts, and invalid bodies."""

import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG with a size in its header and only a few bytes of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", data)
    return file.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(picture(), "JPEG", exif=exif)


JPEG, PNG, WEBP, GIF = (encode(picture(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF"))

GOOD_IMAGES = {
    "jpeg": JPEG,
    "jpeg progressive": encode(picture(), "JPEG", progressive=True),
    "jpeg cmyk": encode(picture("CMYK"), "JPEG"),
    "jpeg grey": encode(picture("L"), "JPEG"),
    "jpeg rotated by EXIF": rotated(),
    "png": PNG,
    "png 1 bit": encode(picture("1"), "PNG"),
    "png palette": encode(picture("P"), "PNG"),
    "png palette with transparency": encode(picture("P"), "PNG", transparency=3),
    "png with alpha": encode(picture("RGBA"), "PNG"),
    "png grey with alpha": encode(picture("LA"), "PNG"),
    "png 16 bit": encode(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50), "PNG"),
    "png one pixel": encode(picture(size=(1, 1)), "PNG"),
    "png a line": encode(picture(size=(3000, 1)), "PNG"),
    "webp": WEBP,
    "webp with alpha": encode(picture("RGBA"), "WEBP"),
    "gif": GIF,
    "gif animated": encode(picture(), "GIF", save_all=True, append_images=[picture("L").convert("RGB")] * 5),
    "webp animated": encode(picture(), "WEBP", save_all=True, append_images=[picture("L").convert("RGB")] * 3),
    "bmp": encode(picture(), "BMP"),
    "tiff": encode(picture(), "TIFF"),
    "tiff float": encode(Image.fromarray(np.random.default_rng(0).random((30, 40)).astype(np.float32)), "TIFF"),
    "tiff of pages": encode(picture(), "TIFF", save_all=True, append_images=[picture()] * 2),
    "tiff with not a number": encode(Image.fromarray(np.full((9, 9), np.nan, dtype=np.float32)), "TIFF"),
    "ppm": encode(picture(), "PPM"),
    "jpeg and a script": JPEG + b"<script>alert(1)</script>",
}

BAD_IMAGES = {
    "nothing": b"",
    "a byte": b"\xff",
    "zeros": b"\0" * 5000,
    "text": b"no image at all",
    "html": b"<html><img src=x onerror=alert(1)></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "svg with an entity": b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
    "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file",
    "program": b"\x7fELF" + b"\0" * 400,
    "pickle": pickle.dumps({"a": 1}),
    "zip of a png": zipped(PNG),
    "gzip of a png": gzip.compress(PNG),
    "icon": encode(picture(), "ICO"),
    "tga": encode(picture(), "TGA"),
    "bomb of 10^10 pixels": png_of_size(100_000, 100_000),
    "bomb of 2^31 a side": png_of_size(2**31 - 1, 2**31 - 1),
    "png of no width": png_of_size(0, 10),
    "png header alone": PNG[:33],
    "png half": PNG[: len(PNG) // 2],
    "png without its end": PNG[:60],
    "png with a wrong checksum": PNG[:40] + bytes([PNG[40] ^ 255]) + PNG[41:],
    "jpeg header alone": JPEG[:4],
    "jpeg half": JPEG[: len(JPEG) // 3],
    "webp half": WEBP[: len(WEBP) // 2],
    "webp header alone": WEBP[:16],
    "gif header alone": GIF[:12],
    "bmp header alone": encode(picture(), "BMP")[:40],
    "tiff cut": encode(picture(), "TIFF")[:50],
    "tiff that points at itself": b"II*\0\x08\0\0\0\x01\0\x11\x01\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
    "a path": b"/etc/passwd",
    "an address": b"http://127.0.0.1:1/secret.png",
}

GOOD_TEXTS = {
    "plain": "is there a red circle?",
    "long": "word " * 3999,
    "one long word": "a" * 20_000,
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308?",
    "right to left": "\u202e\u0645\u0631\u062d\u0628\u0627",
    "combining": "Z" + "\u0301" * 500,
    "control characters": "a\x07\x1b[31m\r\nb",
    "zero width": "\u200b\u200b\u200b",
    "markup": "<script>alert(1)</script>{{7*7}}${7*7}",
    "sql": "'; DROP TABLE users; --",
    "path": "../../../../etc/passwd",
    "special tokens": "[MASK] [PAD] [CLS] </s> <|endoftext|>",
    "byte order mark": "\ufeffwhat?",
    "other planes": "\U00020000\U000e0001\uffff",
}
BAD_TEXTS = {"nothing": "", "spaces": " \t\n\u3000", "nul": "a\0b", "too long": "a" * 20_001}

BAD_BODIES = {
    "nothing": b"",
    "no json": b"{inputs: 1}",
    "half": b'{"inputs": [{"te',
    "not utf-8": b'{"inputs": [{"text": "\xff\xfe"}]}',
    "a lone surrogate": b'{"inputs": [{"text": "\\ud800"}]}',
    "a number": b"1",
    "null": b"null",
    "a list": b"[]",
    "no inputs": b"{}",
    "empty inputs": b'{"inputs": []}',
    "too many inputs": json.dumps({"inputs": [{"text": "x"}] * 65}).encode(),
    "inputs of another kind": b'{"inputs": "x"}',
    "an unknown key": b'{"inputs": [{"text": "x", "url": "http://127.0.0.1:1/x.png"}]}',
    "another unknown key": b'{"inputs": [{"text": "x"}], "model": "../other"}',
    "a text that is a number": b'{"inputs": [{"text": 1}]}',
    "an image that is an object": b'{"inputs": [{"image": {"path": "/etc/passwd"}}]}',
    "top_k of nothing": b'{"inputs": [{"text": "x"}], "top_k": 0}',
    "top_k below": b'{"inputs": [{"text": "x"}], "top_k": -1}',
    "top_k without end": b'{"inputs": [{"text": "x"}], "top_k": 1e400}',
    "top_k not a number": b'{"inputs": [{"text": "x"}], "top_k": NaN}',
    "deep": b'{"inputs": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "an image as address": b'{"inputs": [{"image": "http://127.0.0.1:1/x.png"}]}',
    "an image as file": b'{"inputs": [{"image": "file:///etc/passwd"}]}',
    "an image as path": b'{"inputs": [{"image": "/etc/passwd"}]}',
}
