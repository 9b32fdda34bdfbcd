"""ASGI middleware around the whole application: limits on size and time, key, host check and security headers."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.serving.refusal import RefusedError, error_body, retry_after
from app.serving.root_path import RootPath

log = logging.getLogger(__name__)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src "
    "'self' data:; worker-src 'self' blob:; frame-src 'self' data: blob:; base-uri 'self'; form-action 'self'; "
    "object-src 'none'; frame-ancestors 'self'",
}
"""Headers of every reply. The scripts of the page are inline; nothing is loaded from other hosts. The
ImageEditor of the page reads a picture from a ``data:`` address."""
MAX_REQUESTS = 1000
"""Maximum number of concurrent requests, including event streams of the page."""
MAX_BODIES = 16
"""Maximum size of all bodies in memory, as a multiple of the largest body allowed."""
PROTECTED_PATHS = ("/v1/", "/metrics")
"""Paths that require the key, if there is one. The page has its own login."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
"""Methods without a body. A stopping server still answers them."""
STREAM_END_SECONDS = 1.0
"""Maximum time to send the end of an event stream when the server stops."""
ADDRESS = re.compile(r"https?:/", re.IGNORECASE)


class Reply:
    """Sends the reply to one request, adds headers and records how far it is.

    Args:
        send: ASGI channel.
        headers: headers to add, unless the reply sets them.
        on_status: called with the HTTP status.

    Attributes:
        has_started, is_complete: whether the head and the end of the reply are sent.
        is_body_pending: whether the body of the request is still being received.
        is_stream: whether the reply is an event stream, which does not end by itself.
    """

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]], on_status: Callable[[int], None]):
        self.send, self.headers, self.on_status = send, headers, on_status
        self.has_started = self.is_complete = self.is_stream = False
        self.is_body_pending = True

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower(): value for name, value in message["headers"]}
            added = [(name, value) for name, value in self.headers if name not in own]
            message = {**message, "headers": [*message["headers"], *added]}
            self.has_started, self.is_stream = True, own.get(b"content-type", b"").startswith(b"text/event-stream")
            self.on_status(message["status"])
        else:
            self.is_complete = not message.get("more_body", False)
        await self.send(message)


class Guard:
    """ASGI middleware that reads each body, within limits, before the application sees the request.

    Args:
        app: the application.
        max_bytes: maximum size of a body. Larger ones get 413, by their header or by counting.
        seconds: maximum time to receive a body, else 408.
        api_key: key that `PROTECTED_PATHS` require as ``Authorization: Bearer KEY``.
        hosts: accepted host names; ``None`` accepts any. For servers on loopback this prevents DNS rebinding.
        on_reply: called with path, status and seconds of every request.
        embed_in: origin whose pages may embed this one in a frame.
        root: where a proxy publishes the server.
        is_stopping: returns whether the server is stopping. Then only `SAFE_METHODS` are answered; others get 503.

    Attributes:
        replies: the reply of each request in progress, by its task.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        seconds: float,
        api_key: str | None = None,
        hosts: Collection[str] | None = None,
        on_reply: Callable[[str, int, float], None] = lambda path, status, seconds: None,
        embed_in: str = "",
        root: RootPath = RootPath(),  # noqa: B008, it is frozen
        is_stopping: Callable[[], bool] = lambda: False,
    ):
        self.app, self.root, self.is_stopping = app, root, is_stopping
        headers = HEADERS | {"content-security-policy": f"{HEADERS['content-security-policy']} {embed_in}".rstrip()}
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.max_bytes, self.seconds, self.api_key = max_bytes, seconds, api_key
        self.hosts, self.on_reply = hosts, on_reply
        self.body_bytes = 0
        self.replies: dict[asyncio.Task, Reply] = {}
        self.is_ending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, scope = time.perf_counter(), self.root.apply(scope)

        def report(status: int) -> None:
            path = str(getattr(scope.get("route"), "path", self.root.strip(scope["path"])))
            self.on_reply(path, status, time.perf_counter() - started)

        task, reply, body = asyncio.current_task(), Reply(send, self.headers, report), bytearray()
        assert task is not None
        self.replies[task] = reply
        try:
            await self.answer(scope, receive, reply, body)
        except asyncio.CancelledError:
            if not self.is_ending:
                raise
            with suppress(asyncio.TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(finish(reply), STREAM_END_SECONDS)
        except Exception as error:
            if not reply.is_stream:
                raise
            log.warning("event stream %s ended early: %s", self.root.strip(scope["path"]), error)
            await finish(reply)
        finally:
            self.body_bytes -= len(body)
            del self.replies[task]

    async def answer(self, scope: Scope, receive: Receive, reply: Reply, body: bytearray) -> None:
        """Check the request, read its body into ``body`` and call the application."""
        try:
            self.check(scope)
            try:
                is_complete = await asyncio.wait_for(self.read(scope, receive, body), self.seconds)
            except asyncio.TimeoutError:
                message = f"The request did not arrive within {self.seconds:g} s."
                raise RefusedError(408, "slow_request", message, {"connection": "close"}) from None
            if not is_complete:
                return
            reply.is_body_pending = False
            if self.is_stopping() and scope["method"] not in SAFE_METHODS:
                raise stopping_error()
            await self.app(scope, replay(bytes(body), receive), reply)
        except RefusedError as error:
            await send_error(reply, error)

    def end_streams(self) -> None:
        """End open event streams and refuse incomplete requests, because the server stops.

        From now on a cancelled request ends without an error in the log.
        """
        self.is_ending = True
        for task, reply in self.replies.items():
            if reply.is_stream or reply.is_body_pending:
                task.cancel()

    def check(self, scope: Scope) -> None:
        """Check all that is known before the body.

        Raises:
            RefusedError: too many requests, an unknown host, an address as path, or a missing or wrong key.
        """
        headers, path = dict(scope["headers"]), self.root.strip(scope["path"])
        if not path:  # without the final slash, the relative addresses of the page would miss the root path
            location = f"{self.root.path}/?{scope['query_string'].decode('latin-1')}".rstrip("?")
            raise RefusedError(307, "moved", f"The page is at {self.root.path}/.", {"location": location})
        if len(self.replies) > MAX_REQUESTS:
            raise RefusedError(503, "busy", "There are too many concurrent requests. Try again.", retry_after(1))
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and re.sub(r":\d+$", "", host).strip("[]").lower() not in self.hosts:
            message = f"Without a key, this server accepts only these host names: {', '.join(sorted(self.hosts))}."
            raise RefusedError(421, "unknown_host", message)
        if ADDRESS.search(path):  # gradio would fetch it
            raise RefusedError(404, "not_found", "Addresses are not fetched.")
        if path.startswith(PROTECTED_PATHS) and not self.is_authorized(headers.get(b"authorization", b"")):
            message = "Send the key in the header “Authorization: Bearer KEY”."
            raise RefusedError(401, "no_key", message, {"www-authenticate": "Bearer"})

    def is_authorized(self, authorization: bytes) -> bool:
        if self.api_key is None:
            return True
        scheme, _, key = authorization.partition(b" ")  # names of schemes have no case (RFC 9110)
        return scheme.lower() == b"bearer" and hmac.compare_digest(key, self.api_key.encode())

    async def read(self, scope: Scope, receive: Receive, body: bytearray) -> bool:
        """Read the body; returns whether it is complete, or the client has disconnected.

        Raises:
            RefusedError: the body is too large, or all bodies together use too much memory.
        """
        length = dict(scope["headers"]).get(b"content-length", b"0")
        announced = int(length) if length.isdigit() else 0
        while True:
            if max(announced, len(body)) > self.max_bytes:
                message = f"The request is larger than the {self.max_bytes:,} bytes allowed."
                raise RefusedError(413, "too_large", message, {"connection": "close"})
            if self.body_bytes > MAX_BODIES * self.max_bytes:
                message = "There are too many large requests. Try again."
                raise RefusedError(503, "busy", message, {**retry_after(1), "connection": "close"})
            event = await receive()
            if event["type"] == "http.disconnect":
                return False
            chunk = event.get("body", b"")
            body += chunk
            self.body_bytes += len(chunk)
            if not event.get("more_body") and len(body) <= self.max_bytes:
                return True


def stopping_error() -> RefusedError:
    return RefusedError(503, "stopping", "The server is stopping. Try another one, or later.", retry_after(5))


def replay(body: bytes, receive: Receive) -> Receive:
    """ASGI channel that delivers a body that was already read, then continues with ``receive``."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def finish(reply: Reply) -> None:
    """Complete an interrupted reply: with an error if it has not started, or with the end of its event stream."""
    if not reply.has_started:
        await send_error(reply, stopping_error())
    elif reply.is_stream and not reply.is_complete:
        await reply({"type": "http.response.body", "body": b""})


async def send_error(send: Send, error: RefusedError) -> None:
    """Send an error as JSON."""
    body = json.dumps(error_body(error.code, error.message)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
