"""Images as tables store them: paths, bytes, or the ``{"bytes", "path"}`` of `datasets`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from data.cells import is_blank, is_clean
from data.image_files import MAX_PATH, explain_path, is_address
from data.image_formats import BadImageError
from data.messages import quote
from data.remote_files import origin

StoredImage = str | dict | None
"""Path of an image file, the ``{"bytes", "path"}`` of `datasets`, or ``None`` for no image."""


def resolve_image(image, root: Path | None, confined: bool = False) -> StoredImage:
    """Resolve a cell of the image column.

    Args:
        image: a path; bytes of any type, or as a list of integers; a ``{"bytes", "path"}``; or a missing value.
        root: folder of relative paths; the current folder if ``None``.
        confined: only accept paths inside ``root``, after resolving links.

    Returns:
        An absolute path, ``{"bytes", "path"}``, or ``None``.

    Raises:
        BadImageError: another type, an address, a path outside ``root``, or one beside a table with a URL.
    """
    if is_blank(image) or (isinstance(image, float) and np.isnan(image)):  # pandas writes NaN for a missing value
        return None
    if isinstance(image, list):
        image = as_bytes(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return {"bytes": bytes(image), "path": None} if len(image) else None
    if isinstance(image, dict) and image.keys() & {"bytes", "path"}:
        data, path = image.get("bytes"), image.get("path")
        if not isinstance(data, bytes | None):
            raise BadImageError("An image as datasets stores them has bytes in “bytes”; here they are something else.")
        if data is not None:
            return {"bytes": data, "path": path if isinstance(path, str) else None}
        if is_blank(path):
            return None
        image = path
    if not isinstance(image, str):
        raise BadImageError(
            f"The image column holds {quote(image)}; expected the path of a file, its bytes, or an image as datasets "
            "stores them."
        )
    return resolve_path(image, root or Path(), confined)


def as_bytes(numbers: list) -> bytes:
    try:
        return bytes(numbers)
    except (TypeError, ValueError) as error:
        raise BadImageError(
            f"The image column holds {quote(numbers)}; a list must hold the bytes of an image file, integers from 0 to "
            "255."
        ) from error


def resolve_path(path: str, root: Path, confined: bool) -> str:
    r"""Absolute path of a file. If it does not exist, also try / for \, and the home folder for ~."""
    folder = root.absolute()
    if len(path) > MAX_PATH or ((is_address(path) or not is_clean(path)) and not os.path.exists(folder / path)):
        raise BadImageError(f"{quote(path)} is not the path of a file: {explain_path(path)}")
    spellings = [path]
    if "\\" in path and os.sep == "/":
        spellings.append(path.replace("\\", "/"))
    if path.startswith("~") and not confined:
        spellings.append(os.path.expanduser(path))
    candidates = [os.path.join(folder, spelling) for spelling in spellings]
    found = next(filter(os.path.exists, candidates), candidates[0])
    if not os.path.exists(found) and (url := origin(folder)):
        raise BadImageError(f"{quote(path)} is not a file in the folder of {url}, nor below it.")
    if not confined:
        return found
    found = os.path.realpath(found)
    if not Path(found).is_relative_to(os.path.realpath(folder)):
        raise BadImageError(
            f"The path {quote(path)} leads out of the folder of the images, which this table may not do. Put the "
            "image into that folder."
        )
    return found
