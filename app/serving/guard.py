"""What every request passes before anything reads it: its size, its time, its key; and the headers of every answer."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections.abc import Callable, Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src "
    "'self' blob:; frame-src 'self' data: blob:; base-uri 'self'; form-action 'self'; object-src 'none'; "
    "frame-ancestors 'self'",
}
"""Of every answer. The page's own scripts are inline; nothing comes from elsewhere."""
MAX_REQUESTS = 1000
"""Requests that are under way at a time, streams of the page included."""
BODIES = 16
"""Bodies of the largest size allowed that may be in memory at a time."""
PROTECTED = ("/v1/", "/metrics")
"""Paths whose requests must show the key, where there is one; the page has a login of its own."""
ADDRESS = re.compile(r"https?:/", re.IGNORECASE)


class TurnedAwayError(Exception):
    """A request that is refused before the application sees it; as `app.serving.engine.RefusedError`."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


class Guard:
    """Around an ASGI application: a body is read here, as far as it may be, before the application sees the request.

    Args:
        app: what it guards.
        max_bytes: of a body; larger ones are refused with 413, by their header or by count.
        seconds: in which the body must have come, else 408.
        api_key: that requests to `PROTECTED` paths must show, as ``Authorization: Bearer KEY``.
        hosts: names under which the server may be asked; any where not given. On loopback they keep a page of the
            web whose name was pointed here from reading answers (DNS rebinding).
        told: called with path, status and seconds of every request.
        embed_in: origin whose pages may show this one in a frame, besides its own.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        seconds: float,
        api_key: str | None = None,
        hosts: Collection[str] | None = None,
        told: Callable[[str, int, float], None] | None = None,
        embed_in: str = "",
    ):
        self.app = app
        headers = HEADERS | {"content-security-policy": f"{HEADERS['content-security-policy']} {embed_in}".rstrip()}
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.max_bytes, self.seconds, self.api_key, self.hosts, self.told = max_bytes, seconds, api_key, hosts, told
        self.requests = self.bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = [(name, value) for name, value in self.headers if name not in there]
                message = {**message, "headers": [*message["headers"], *more]}
                if self.told is not None:
                    path = str(getattr(scope.get("route"), "path", scope["path"]))
                    self.told(path, message["status"], time.perf_counter() - started)
            await send(message)

        body = bytearray()
        self.requests += 1
        try:
            self.check(scope)
            try:
                is_whole = await asyncio.wait_for(self.read(scope, receive, body), self.seconds)
            except asyncio.TimeoutError:
                told = f"The request did not come within {self.seconds:g} s."
                raise TurnedAwayError(408, "slow_request", told, {"connection": "close"}) from None
            if is_whole:
                await self.app(scope, replay(bytes(body), receive), send_with_headers)
        except TurnedAwayError as error:
            await refuse(send_with_headers, error)
        finally:
            self.requests -= 1
            self.bytes -= len(body)

    def check(self, scope: Scope) -> None:
        """What can be told before the body.

        Raises:
            TurnedAwayError: too many requests, another host's name, a path that is an address, or no key.
        """
        headers, path = dict(scope["headers"]), scope["path"]
        if self.requests > MAX_REQUESTS:
            told = "Too many requests are under way; try again."
            raise TurnedAwayError(503, "busy", told, {"retry-after": "1"})
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and re.sub(r":\d+$", "", host).strip("[]").lower() not in self.hosts:
            told = f"This server is {' or '.join(sorted(self.hosts))}; with a key it may be asked by any name."
            raise TurnedAwayError(421, "unknown_host", told)
        if ADDRESS.search(path):  # gradio would fetch it
            raise TurnedAwayError(404, "not_found", "No address is fetched.")
        if path.startswith(PROTECTED) and not self.is_known(headers.get(b"authorization", b"")):
            told = "Send the key: “Authorization: Bearer KEY”."
            raise TurnedAwayError(401, "no_key", told, {"www-authenticate": "Bearer"})

    def is_known(self, authorization: bytes) -> bool:
        return self.api_key is None or hmac.compare_digest(authorization, b"Bearer " + self.api_key.encode())

    async def read(self, scope: Scope, receive: Receive, body: bytearray) -> bool:
        """Fill the body; whether it is whole, or the client went away.

        Raises:
            TurnedAwayError: too large, or too much is in memory already.
        """
        length = dict(scope["headers"]).get(b"content-length", b"0")
        announced = int(length) if length.isdigit() else 0
        while True:
            if max(announced, len(body)) > self.max_bytes:
                told = f"The request is larger than the {self.max_bytes:,} bytes allowed."
                raise TurnedAwayError(413, "too_large", told, {"connection": "close"})
            if self.bytes > BODIES * self.max_bytes:
                told = "Too many large requests are under way; try again."
                raise TurnedAwayError(503, "busy", told, {"retry-after": "1", "connection": "close"})
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            piece = message.get("body", b"")
            body += piece
            self.bytes += len(piece)
            if not message.get("more_body") and len(body) <= self.max_bytes:
                return True


def replay(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body that was read, then whatever else comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def refuse(send: Send, error: TurnedAwayError) -> None:
    """An error in the form of the API's."""
    body = json.dumps({"error": {"code": error.code, "message": error.message}}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": listed})
    await send({"type": "http.response.body", "body": body})
