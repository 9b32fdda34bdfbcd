"""What every request passes before anything reads it: its size, its time, its key; and the headers of every answer."""

from __future__ import annotations

import asyncio
import hmac
import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src "
    "'self' blob:; frame-src 'self' data: blob:; base-uri 'self'; form-action 'self'; object-src 'none'",
}
"""Of every answer. The page's own scripts are inline; nothing comes from elsewhere."""


class Guard:
    """ASGI middleware: a body is read here, as far as it may be, before the application sees the request.

    Args:
        app: what it guards.
        max_bytes: of a body; larger ones are refused with 413, by their header or by count.
        seconds: in which the body must have come, else 408.
        api_key: that requests to ``protected`` paths must show, as ``Authorization: Bearer KEY``.
    """

    protected = ("/v1/", "/metrics")

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float, api_key: str | None = None):
        self.app = app
        self.max_bytes, self.seconds, self.api_key = max_bytes, seconds, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in there]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        headers = dict(scope["headers"])
        if scope["path"].startswith(self.protected) and not self.is_known(headers.get(b"authorization", b"")):
            await refuse(send_with_headers, 401, "no_key", "Send the key: “Authorization: Bearer KEY”.")
            return
        try:
            body = await asyncio.wait_for(self.read(headers, receive), self.seconds)
        except asyncio.TimeoutError:
            told = f"The request did not come within {self.seconds:g} s."
            await refuse(send_with_headers, 408, "slow_request", told)
            return
        except ValueError:
            told = f"The request is larger than the {self.max_bytes:,} bytes allowed."
            await refuse(send_with_headers, 413, "too_large", told)
            return
        if body is None:
            return
        await self.app(scope, replay(body, receive), send_with_headers)

    def is_known(self, authorization: bytes) -> bool:
        return self.api_key is None or hmac.compare_digest(authorization, b"Bearer " + self.api_key.encode())

    async def read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The body; ``None`` where the client went away.

        Raises:
            ValueError: too large.
        """
        if headers.get(b"content-length", b"0").isdigit() and int(headers.get(b"content-length", 0)) > self.max_bytes:
            raise ValueError
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self.max_bytes:
                raise ValueError
            if not message.get("more_body"):
                return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body that was read, then whatever else comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def refuse(send: Send, status: int, code: str, message: str) -> None:
    """An error in the form of the API's."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")] if status in (408, 413) else []
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
