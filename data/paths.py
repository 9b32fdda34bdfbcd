"""Expand ``~`` in paths from the command line and from configurations."""

import os
from pathlib import Path


def expand_home(path: str) -> str:
    """Replace a leading ``~`` or ``~user`` by that home folder.

    An existing file whose name starts with ``~`` is kept. Strings that are not paths stay as they are, such as Hub ids
    and ``shapes:N``.
    """
    return path if os.path.lexists(path) else os.path.expanduser(path)


def user_path(path: str) -> Path:
    """A path from a user, with the home folder expanded, see `expand_home`."""
    return Path(expand_home(path))
