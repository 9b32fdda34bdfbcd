"""Uploaded zip archives, unpacked within limits."""

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
"""Files that an archive may hold."""


MAX_UNPACKED = 2 << 30
"""Bytes that an archive may unpack to."""


@contextmanager
def unpacked(archive: str | Path, max_files: int = MAX_FILES, max_bytes: int = MAX_UNPACKED) -> Iterator[Path]:
    """The one table of a zip archive, unpacked beside its images into a folder that goes again.

    Raises:
        UserError: no zip archive, too many or too large files, names that lead out of it, or not exactly one table.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, left = Path(folder).resolve(), max_bytes
        try:
            with zipfile.ZipFile(archive) as opened:
                members = [member for member in opened.infolist() if not member.is_dir()]
                if len(members) > max_files:
                    raise UserError(f"The archive holds {len(members):,} files; {max_files:,} are allowed.")
                for member in members:
                    target = (root / member.filename).resolve()
                    if not target.is_relative_to(root):
                        raise UserError(f"The archive names a file outside itself: {quote(member.filename)}.")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    left -= copy_bounded(opened, member, target, left)
        except (
            zipfile.BadZipFile,
            RuntimeError,
            NotImplementedError,
            OSError,
            EOFError,
            zlib.error,
            LZMAError,
        ) as error:
            raise UserError(f"The archive cannot be unpacked: {error}") from error
        tables = [file for file in sorted(root.rglob("*")) if file.suffix.lower() in READERS and file.is_file()]
        if len(tables) != 1:
            raise UserError(
                f"An archive holds exactly one table ({', '.join(READERS)}) and images; found {len(tables)}."
            )
        yield tables[0]


def copy_bounded(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, most: int) -> int:
    """Unpack one file, whatever size its header claims; returns its size."""
    with opened.open(member) as source, target.open("wb") as file:
        while piece := source.read(1 << 20):
            if file.tell() + len(piece) > most:
                raise UserError("The archive unpacks to more than is allowed.")
            file.write(piece)
        return file.tell()
