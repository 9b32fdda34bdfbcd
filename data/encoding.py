"""Text files in UTF-8, or in the encoding of their byte order mark."""

import codecs
from pathlib import Path
from typing import TextIO

from data.errors import UserError

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is a prefix of this one
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CHUNK = 1 << 20
"""Bytes that are checked at a time."""


def detect_encoding(path: Path) -> str:
    """Encoding given by the byte order mark of a file, or UTF-8."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8-sig")


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Open a file in its encoding and skip its byte order mark."""
    return path.open(encoding=detect_encoding(path), newline=newline)


def check_text(path: Path) -> None:
    """Check that a file is text, reading it in chunks.

    Raises:
        UserError: bytes that are invalid in its encoding, or NUL characters; names the place.
    """
    encoding = detect_encoding(path).removesuffix("-sig")
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = lines = 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = offset - pending + error.start
                raise UserError(
                    f"{path} is not {encoding.upper()}: byte {error.object[error.start]:#04x} at offset {place}. Save "
                    "it as UTF-8."
                ) from error
            if "\0" in text:
                line = lines + text[: text.index("\0")].count("\n") + 1
                raise UserError(
                    f"Line {line} of {path} holds a NUL character, which text files do not have. The file is damaged, "
                    "or was saved in another encoding; save it as UTF-8."
                )
            if not chunk:
                return
            offset += len(chunk)
            lines += text.count("\n")
