"""Images in JSON: base64 as people and libraries write it, and what to say of anything else."""

from __future__ import annotations

import binascii
import re
import string

from data import BadImageError

ALPHABET = (string.ascii_letters + string.digits + "+/").encode()
FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
WHITE_SPACE = string.whitespace.encode()
DATA_URI = re.compile(r"\s*data:([^,]*)", re.IGNORECASE)
ELSEWHERE = re.compile(
    r"\s*([a-z][a-z0-9+.-]{0,20}:[/\\]|~|(?!/9j/)\.{0,2}[/\\]|[^\r\n]{1,250}\.[a-z0-9]{2,5}\s*$)",
    re.IGNORECASE | re.ASCII,
)
"""An address or a path. Base64 of an image begins with a slash in JPEG only, and then with ``/9j/``."""
SHOWN = 60
"""Characters of a faulty image that a message shows."""


def decode_base64(image: str) -> bytes:
    """The bytes of an image in base64 (RFC 4648).

    Both alphabets are taken, with padding and without, whole or in lines, alone or in a ``data:`` URI. White space is
    all that is left out.

    Raises:
        BadImageError: it is something else; the message says what. No address is fetched and no path is opened.
    """
    encoded = image
    if is_uri := DATA_URI.match(image):
        if not is_uri[1].strip().lower().endswith(";base64"):
            raise BadImageError(
                "The image is a data: URI without base64, expected data:image/png;base64,… or the like."
            )
        encoded = image[is_uri.end() + 1 :]
    padded = encoded.encode("utf-8", "surrogatepass").translate(FROM_URL_SAFE, WHITE_SPACE)
    digits = padded.rstrip(b"=")
    padding, needed = len(padded) - len(digits), -len(digits) % 4
    if not padded:
        raise BadImageError("The image is empty. Send the bytes of its file in base64, or leave it out.")
    if not is_uri and ELSEWHERE.match(image):
        raise BadImageError(
            f"The image is an address or a path ({image[:SHOWN]!r}), which the server neither fetches nor opens. "
            "Send the bytes of its file in base64."
        )
    if digits.translate(None, ALPHABET):
        raise BadImageError(
            f"The image is not base64: {describe_strange(encoded)}. Send the bytes of its file in base64."
        )
    if needed == 3 or padding not in (0, needed):
        raise BadImageError(
            f"The image is not base64: {len(digits):,} characters and {padding:,} “=” at the end are no whole number "
            "of bytes. It may have been cut off."
        )
    return binascii.a2b_base64(digits + b"=" * needed)


def describe_strange(encoded: str) -> str:
    """The first character that is no base64."""
    found = re.search(r"[^A-Za-z0-9+/_=\s-]|=(?=\s*[^=\s])", encoded, re.ASCII)
    assert found is not None
    return f"character {found.start() + 1:,} is {found[0]!r}"
