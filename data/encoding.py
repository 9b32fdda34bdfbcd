"""Text files in UTF-8, or in the encoding that their byte order mark names."""

import codecs
from pathlib import Path
from typing import TextIO

from data.errors import UserError

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is its beginning
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order mark → encoding."""


def find_encoding(path: Path) -> str:
    """The encoding that the byte order mark of a file names; UTF-8 without one."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((encoding for mark, encoding in MARKS.items() if head.startswith(mark)), "utf-8-sig")


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Open a file in its encoding, without its byte order mark."""
    return path.open(encoding=find_encoding(path), newline=newline)


def check_text(path: Path) -> None:
    """Refuse a file that is not text, naming the place; reads it a piece at a time.

    Raises:
        UserError: bytes that its encoding does not have, or NUL characters.
    """
    encoding = find_encoding(path).removesuffix("-sig")
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = lines = 0
    with path.open("rb") as file:
        while True:
            piece = file.read(1 << 20)
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                place = offset - waiting + error.start
                raise UserError(
                    f"{path} is not {encoding.upper()}: byte {error.object[error.start]:#04x} at offset {place}. Save "
                    "it as UTF-8."
                ) from error
            if "\0" in text:
                line = lines + text[: text.index("\0")].count("\n") + 1
                raise UserError(
                    f"Line {line} of {path} holds a NUL character, which text does not have. Most likely the file was "
                    "saved in another encoding, or is damaged; save it as UTF-8."
                )
            if not piece:
                return
            offset += len(piece)
            lines += text.count("\n")
