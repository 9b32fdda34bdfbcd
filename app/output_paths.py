"""Checks that results can be written, before they are computed."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from data.errors import UserError


def ready_file(path: Path, endings: Sequence[str] = ()) -> Path:
    """Check that a file can be written, and create its folder; the content of an existing file is kept.

    Args:
        endings: allowed file endings; empty for any.

    Raises:
        UserError: a wrong ending, a folder, or a place without write permission.
    """
    if endings and path.suffix.lower() not in endings:
        raise UserError(f"--output must end in {', '.join(endings[:-1])} or {endings[-1]}, got {path}.")
    if path.is_dir():
        raise UserError(f"--output {path} is a folder; name a file in it.")
    ready_folder(path.parent)
    if path.exists():
        try:
            path.open("ab").close()
        except OSError as error:
            raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error
    return path


def ready_folder(path: Path) -> Path:
    """Check that files can be written in a folder, and create it if it does not exist.

    Raises:
        UserError: it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UserError(f"Cannot write in the folder {path}: {error.strerror or error}.") from error
