"""Unpack uploaded zip archives within limits."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path

from data.errors import UserError
from data.messages import quote
from data.sources import READERS

MAX_FILES = 10_000
"""Maximum number of files in an archive."""
MAX_UNPACKED = 2 << 30
"""Maximum total size of the unpacked files, in bytes."""
DAMAGED = (
    zipfile.BadZipFile,
    RuntimeError,
    NotImplementedError,
    OSError,
    EOFError,
    zlib.error,
    LZMAError,
    UnicodeDecodeError,
    IndexError,
)
"""Exceptions of `zipfile` for damaged, encrypted or unsupported archives; the last two for a damaged or empty name."""
OF_MACOS = "__MACOSX/"
"""Folder that macOS adds to an archive, with the attributes of each file in another of the same ending."""


@contextmanager
def unpacked(archive: str | Path, max_files: int = MAX_FILES, max_bytes: int = MAX_UNPACKED) -> Iterator[Path]:
    """Unpack an archive into a temporary folder and yield the path of its table.

    The folder is deleted on exit.

    Raises:
        UserError: not a zip archive, too many files, too many bytes, a file name that leads outside the folder, or not
            exactly one table.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        try:
            unpack(archive, root, max_files, max_bytes)
        except DAMAGED as error:
            raise UserError(f"The archive cannot be unpacked: {error}") from error
        tables = [file for file in sorted(root.rglob("*")) if file.suffix.lower() in READERS and file.is_file()]
        if len(tables) != 1:
            raise UserError(
                f"An archive must contain exactly one table ({', '.join(READERS)}), and images; found {len(tables)}."
            )
        yield tables[0]


def unpack(archive: str | Path, root: Path, max_files: int, max_bytes: int) -> None:
    """Write the files of an archive below ``root``, without those of macOS; links are written as plain files."""
    remaining = max_bytes
    with zipfile.ZipFile(archive) as opened:
        members = [member for member in opened.infolist() if not member.is_dir()]
        members = [member for member in members if not member.filename.startswith(OF_MACOS)]
        if len(members) > max_files:
            raise UserError(f"The archive contains {len(members):,} files; at most {max_files:,} are allowed.")
        for member in members:
            target = (root / member.filename).resolve()
            if not target.is_relative_to(root):
                raise UserError(f"The archive names a file outside itself: {quote(member.filename)}.")
            target.parent.mkdir(parents=True, exist_ok=True)
            remaining -= copy_bounded(opened, member, target, remaining)


def copy_bounded(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, max_bytes: int) -> int:
    """Unpack one file and return its size. Bytes are counted, since the size in a zip header can be false."""
    with opened.open(member) as source, target.open("wb") as file:
        while chunk := source.read(1 << 20):
            if file.tell() + len(chunk) > max_bytes:
                raise UserError("The unpacked files of the archive are larger than allowed.")
            file.write(chunk)
        return file.tell()
