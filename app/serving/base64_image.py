"""Base64 images in JSON: decode every common spelling and explain anything else."""

from __future__ import annotations

import binascii
import re
import string

from data import BadImageError

ALPHABET = (string.ascii_letters + string.digits + "+/").encode()
FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
WHITE_SPACE = string.whitespace.encode()
DATA_URI = re.compile(r"\s*data:([^,]*)", re.IGNORECASE)
ADDRESS_OR_PATH = re.compile(
    r"\s*([a-z][a-z0-9+.-]{0,20}:[/\\]|~|(?!/9j/)\.{0,2}[/\\]|[^\r\n]{1,250}\.[a-z0-9]{2,5}\s*$)",
    re.IGNORECASE | re.ASCII,
)
"""Only a JPEG in base64 begins with a slash, and always with ``/9j/``."""
MAX_EXCERPT = 60
"""Characters of an invalid image that an error message quotes."""


def decode_base64(image: str) -> bytes:
    """Decode an image in base64 (RFC 4648).

    Accepts the standard and the URL-safe alphabet, with or without padding and line breaks, alone or in a ``data:``
    URI. Only white space is ignored.

    Raises:
        BadImageError: not base64. The message names the reason. No address is fetched and no path is opened.
    """
    encoded = image
    if is_uri := DATA_URI.match(image):
        if not is_uri[1].strip().lower().endswith(";base64"):
            raise BadImageError(
                "The image is a data: URI without base64; expected data:image/png;base64,… or another image type."
            )
        encoded = image[is_uri.end() + 1 :]
    padded = encoded.encode("utf-8", "surrogatepass").translate(FROM_URL_SAFE, WHITE_SPACE)
    digits = padded.rstrip(b"=")
    padding, needed = len(padded) - len(digits), -len(digits) % 4
    if not padded:
        raise BadImageError("The image is empty. Send the bytes of an image file in base64, or omit the field.")
    if not is_uri and ADDRESS_OR_PATH.match(image):
        raise BadImageError(
            f"The image is an address or a path ({image[:MAX_EXCERPT]!r}). The server fetches no addresses and opens "
            "no paths. Send the bytes of the image file in base64."
        )
    if digits.translate(None, ALPHABET):
        raise BadImageError(
            f"The image is not base64: {describe_invalid_character(encoded)}. Send the bytes of the image file in "
            "base64."
        )
    if needed == 3 or padding not in (0, needed):
        raise BadImageError(
            f"The image is not base64: {len(digits):,} characters and {padding:,} “=” at the end do not encode a whole "
            "number of bytes. It may be cut off."
        )
    return binascii.a2b_base64(digits + b"=" * needed)


def describe_invalid_character(encoded: str) -> str:
    """Position and value of the first character outside base64."""
    found = re.search(r"[^A-Za-z0-9+/_=\s-]|=(?=\s*[^=\s])", encoded, re.ASCII)
    assert found is not None
    return f"character {found.start() + 1:,} is {found[0]!r}"
