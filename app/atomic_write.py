"""Replace a file or a folder so that a crash leaves either the previous content or the new one, never a part of it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` for the new file or folder, and move it to ``target`` afterwards.

    The new content is flushed to the disk before it is moved. If the block raises, ``target`` stays as it was.

    A file is replaced by one rename. Folders cannot be exchanged in one step on all systems: the previous folder is
    first renamed to ``<target>.old``. A crash between the two renames leaves it there, and `surviving` finds it.
    """
    new, old = new_name(target), old_name(target)
    remove(new)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield new
        flush(new)
    except Exception:
        remove(new)
        raise
    if new.is_dir() and target.exists():
        remove(old)
        os.replace(target, old)
    os.replace(new, target)
    remove(old)


def surviving(target: Path) -> Path:
    """Where the content of ``target`` is: ``<target>.old`` if a crash interrupted `replacing`, else ``target``."""
    return old_name(target) if not target.exists() and old_name(target).exists() else target


def new_name(target: Path) -> Path:
    """Where new content is written before it is moved to ``target``."""
    return target.with_name(f"{target.name}.new")


def old_name(target: Path) -> Path:
    return target.with_name(f"{target.name}.old")


def remove(path: Path) -> None:
    """Delete a file, a link or a folder if it exists. On Windows, files that are memory-mapped may stay."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flush a file, or all files of a folder, to the disk."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("r+b") as opened:  # Windows flushes only files that are open for writing
                os.fsync(opened.fileno())
