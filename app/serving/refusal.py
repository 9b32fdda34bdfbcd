"""Refused requests: the one exception, and the one form of an error in a reply."""

from __future__ import annotations

from typing import Any


class RefusedError(Exception):
    """A request that gets an error instead of an answer.

    Args:
        status: HTTP status.
        code: error code for programs, for example ``too_large``.
        message: sentence for people.
        headers: additional headers of the reply, for example ``Retry-After``.
    """

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


def retry_after(seconds: int) -> dict[str, str]:
    """The header that asks a client to try again after some seconds."""
    return {"retry-after": str(seconds)}


def error_body(code: str, message: str) -> dict[str, Any]:
    """The JSON body of every error."""
    return {"error": {"code": code, "message": message}}
