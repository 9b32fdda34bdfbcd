"""Read the encoded bytes of images and videos from their files."""

import errno
import os
import re
import stat
from pathlib import Path

from data.image_formats import IMAGE_ENDINGS, BadImageError, explain_decoder_errors
from data.videos import frame_files

MAX_PATH = 4096
"""Characters of a path, the limit of common systems."""
ADDRESS = re.compile(r"(?i)(data:|[a-z][a-z0-9+.-]+://)")
"""Start of a URL or ``data:`` URI. A Windows drive has a single letter."""


def is_address(path: str) -> bool:
    """Whether the string is a URL or a ``data:`` URI."""
    return ADDRESS.match(path) is not None


def read_image(image: str | Path | bytes | dict) -> bytes:
    """Encoded bytes of an image: a path, bytes, or the ``{"bytes", "path"}`` of `datasets`."""
    if isinstance(image, dict):
        return read_image(image["path"] if image.get("bytes") is None else image["bytes"])
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | Path):
        raise BadImageError(f"expected a file or its bytes, got {type(image).__name__}")
    try:
        if not stat.S_ISREG(os.stat(image).st_mode):  # reading a pipe or a device may block forever
            raise BadImageError("cannot open the file: it is a folder or a device")
        return Path(image).read_bytes()
    except BadImageError:
        raise
    except (OSError, ValueError) as error:  # a NUL character in a path raises ValueError
        raise BadImageError(f"cannot open the file: {explain_path(str(image), error)}") from error


def read_frames(image: str | Path | bytes | dict, frames: int) -> list[bytes]:
    """Encoded bytes of an image or a video file; of a folder of frames, those of its evenly spaced files.

    Args:
        frames: see `data.images.decode_image`; with 1 a folder is refused.
    """
    path = image.get("path") if isinstance(image, dict) and image.get("bytes") is None else image
    if frames == 1 or not isinstance(path, str | Path) or not os.path.isdir(path):
        return [read_image(image)]
    with explain_decoder_errors("not a folder of frames"):
        files = frame_files(path, IMAGE_ENDINGS, frames)
    return [read_image(file) for file in files]


def explain_path(path: str, error: OSError | ValueError | None = None) -> str:
    """Why a path cannot be opened, and what to do."""
    if path.lower().startswith("data:"):
        return "it is a data: address; decode it, and give a file or its bytes"
    if is_address(path):
        return "it is an address, and nothing is downloaded; download the images and give their paths"
    if len(path) > MAX_PATH or getattr(error, "errno", None) == errno.ENAMETOOLONG:
        return "it is too long; if it is an image in base64, decode it to a file or to bytes"
    if not isinstance(error, OSError):
        return "it has characters that no path can have"
    reason = error.strerror or str(error)
    return f"{reason}; write / where the path has \\" if "\\" in path and os.sep == "/" else reason
