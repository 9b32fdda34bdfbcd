"""Where results go: checked before the work, so that nothing is computed that cannot be written."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from data.errors import UserError


def ready_file(path: Path, endings: Sequence[str] = ()) -> Path:
    """A file that can be written; its folder is made. What the file holds stays.

    Args:
        endings: those the file may have; any where there are none.

    Raises:
        UserError: another ending, a folder, or a place that cannot be written to.
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
    """A folder in which files can be written; it is made where there is none.

    Raises:
        UserError: it cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UserError(f"Cannot write in the folder {path}: {error.strerror or error}.") from error
