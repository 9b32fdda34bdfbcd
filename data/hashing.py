"""Hashes of files."""

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """SHA-256 hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
