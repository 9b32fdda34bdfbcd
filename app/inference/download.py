"""Fetch images from http(s) addresses, with limits on bytes and time."""

import queue
import threading
import time

from data import BadImageError
from data.messages import excerpt

MAX_DOWNLOAD = 50_000_000
"""Most bytes of one image."""
DOWNLOAD_SECONDS = 20.0
"""Most time for one image, from the look-up of the host to the last byte."""


def is_url(image: object) -> bool:
    """Whether an image is an ``http(s)`` address."""
    return isinstance(image, str) and image.lower().startswith(("http://", "https://"))


def fetch(url: str) -> bytes:
    """The bytes at an address.

    Raises:
        BadImageError: no reply, more than `MAX_DOWNLOAD` bytes, or more than `DOWNLOAD_SECONDS`.
    """
    # In a thread: the time-out of a socket is for one read, and a host that sends a byte now and then never reaches it.
    found: queue.SimpleQueue[bytes | BadImageError] = queue.SimpleQueue()
    threading.Thread(target=lambda: found.put(download(url)), daemon=True).start()
    try:
        reply = found.get(timeout=DOWNLOAD_SECONDS)
    except queue.Empty:
        raise BadImageError(f"it was not fetched within {DOWNLOAD_SECONDS:g} s") from None
    if isinstance(reply, BadImageError):
        raise reply
    return reply


def download(url: str) -> bytes | BadImageError:
    """The bytes at an address, or the error."""
    import httpx  # slow to import, and most images are files

    end, data = time.monotonic() + DOWNLOAD_SECONDS, bytearray()
    headers = {"Accept-Encoding": "identity"}  # so that the bytes on the wire are the bytes in memory
    try:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=DOWNLOAD_SECONDS) as response:
            response.raise_for_status()
            for piece in response.iter_raw():
                data += piece
                if len(data) > MAX_DOWNLOAD:
                    return BadImageError(f"it has more than {MAX_DOWNLOAD:,} bytes")
                if time.monotonic() > end:
                    break  # the caller has given up
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return BadImageError(f"it cannot be fetched: {excerpt(str(error))}")
    return bytes(data)
