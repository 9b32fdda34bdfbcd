"""Hashes of files and of their content."""

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """SHA-256 hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def content_key(data: bytes) -> str:
    """Hash of encoded bytes. Equal keys mean equal images or texts, whatever their names."""
    return hashlib.sha256(data).hexdigest()[:20]
