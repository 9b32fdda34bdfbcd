"""Paths as users write them."""

import os
from pathlib import Path


def expand_home(path: str) -> str:
    """A path with ``~`` or ``~user`` at its start replaced by that home folder.

    One of a file that exists by the very name stays, as does what is no path: Hub ids, ``shapes:N``.
    """
    return path if os.path.lexists(path) else os.path.expanduser(path)


def user_path(path: str) -> Path:
    """A path of the command line, see `expand_home`."""
    return Path(expand_home(path))
