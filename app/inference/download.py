"""Images from http(s) addresses, for callers who allow it: bounded in bytes and in time."""

import queue
import threading
import time

import httpx

from data import BadImageError
from data.messages import excerpt

MAX_DOWNLOAD = 50_000_000
"""Bytes of one image."""
DOWNLOAD_SECONDS = 20.0
"""Time for one image, from the look-up of the host to the last byte."""


def is_url(image: object) -> bool:
    """Whether an image is named by an address."""
    return isinstance(image, str) and image.lower().startswith(("http://", "https://"))


def fetch(url: str) -> bytes:
    """The bytes at an address.

    Raises:
        BadImageError: nothing there, more than `MAX_DOWNLOAD` bytes, or more than `DOWNLOAD_SECONDS`.
    """
    # In a thread: a socket's time-out is for one read, and a host that sends a byte now and then never exceeds it.
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
    """The bytes at an address, or why there are none."""
    end, data = time.monotonic() + DOWNLOAD_SECONDS, bytearray()
    headers = {"Accept-Encoding": "identity"}  # what is counted is what is kept
    try:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=DOWNLOAD_SECONDS) as response:
            response.raise_for_status()
            for piece in response.iter_raw():
                data += piece
                if len(data) > MAX_DOWNLOAD:
                    return BadImageError(f"it has more than {MAX_DOWNLOAD:,} bytes")
                if time.monotonic() > end:
                    break  # nobody waits for it any more
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return BadImageError(f"it cannot be fetched: {excerpt(str(error))}")
    return bytes(data)
