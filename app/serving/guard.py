"""What every request passes before anything reads it: its size, its time, its key; and the headers of every answer."""

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

from app.serving.root_path import RootPath

log = logging.getLogger(__name__)
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
READING = ("GET", "HEAD", "OPTIONS")
"""Methods that bring nothing to work on: a server that stops still answers them."""
LAST_WORDS = 1.0
"""Seconds in which the end of a stream must have been sent."""
ADDRESS = re.compile(r"https?:/", re.IGNORECASE)


class TurnedAwayError(Exception):
    """A request that is refused before the application sees it; as `app.serving.engine.RefusedError`."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


class Reply:
    """The answer to one request on its way out, with the headers of every answer.

    Args:
        send: where it goes.
        headers: added where the answer does not have them.
        told: called with the status.

    Attributes:
        has_started, is_complete: what of it is sent.
        is_awaited: whether the body of the request has still to come.
        is_stream: whether it is a stream of events, which has no end of its own.
    """

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]], told: Callable[[int], None]):
        self.send, self.headers, self.told = send, headers, told
        self.has_started = self.is_complete = self.is_stream = False
        self.is_awaited = True

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower(): value for name, value in message["headers"]}
            more = [(name, value) for name, value in self.headers if name not in own]
            message = {**message, "headers": [*message["headers"], *more]}
            self.has_started, self.is_stream = True, own.get(b"content-type", b"").startswith(b"text/event-stream")
            self.told(message["status"])
        else:
            self.is_complete = not message.get("more_body", False)
        await self.send(message)


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
        root: where a proxy shows the server.
        is_stopping: whether the server is; then only methods that bring no work are answered, others get 503.
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
        root: RootPath = RootPath(),  # noqa: B008, it is frozen
        is_stopping: Callable[[], bool] = lambda: False,
    ):
        self.app, self.root, self.is_stopping = app, root, is_stopping
        headers = HEADERS | {"content-security-policy": f"{HEADERS['content-security-policy']} {embed_in}".rstrip()}
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.max_bytes, self.seconds, self.api_key, self.hosts, self.told = max_bytes, seconds, api_key, hosts, told
        self.requests = self.bytes = 0
        self.replies: dict[asyncio.Task, Reply] = {}
        self.is_ending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, scope = time.perf_counter(), self.root.place(scope)

        def tell(status: int) -> None:
            if self.told is not None:
                path = str(getattr(scope.get("route"), "path", self.root.strip(scope["path"])))
                self.told(path, status, time.perf_counter() - started)

        task, reply, body = asyncio.current_task(), Reply(send, self.headers, tell), bytearray()
        assert task is not None
        self.replies[task] = reply
        self.requests += 1
        try:
            await self.answer(scope, receive, reply, body)
        except asyncio.CancelledError:
            if not self.is_ending:
                raise
            with suppress(asyncio.TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(finish(reply), LAST_WORDS)
        except Exception as error:
            if not reply.is_stream:
                raise
            log.warning("a stream of %s ended early: %s", self.root.strip(scope["path"]), error)  # it said why
            await finish(reply)
        finally:
            self.requests -= 1
            self.bytes -= len(body)
            del self.replies[task]

    async def answer(self, scope: Scope, receive: Receive, reply: Reply, body: bytearray) -> None:
        """Check the request, read its body, and let the application answer it."""
        try:
            self.check(scope)
            try:
                is_whole = await asyncio.wait_for(self.read(scope, receive, body), self.seconds)
            except asyncio.TimeoutError:
                told = f"The request did not come within {self.seconds:g} s."
                raise TurnedAwayError(408, "slow_request", told, {"connection": "close"}) from None
            if not is_whole:
                return
            reply.is_awaited = False
            if self.is_stopping() and scope["method"] not in READING:
                raise stopping()
            await self.app(scope, replay(bytes(body), receive), reply)
        except TurnedAwayError as error:
            await refuse(reply, error)

    def end_idle(self) -> None:
        """As the server stops, end the streams that are open and refuse the requests that have not come yet.

        From now on a request that is cancelled ends quietly.
        """
        self.is_ending = True
        for task, reply in self.replies.items():
            if reply.is_stream or reply.is_awaited:
                task.cancel()

    def check(self, scope: Scope) -> None:
        """What can be told before the body.

        Raises:
            TurnedAwayError: too many requests, another host's name, a path that is an address, or no key.
        """
        headers, path = dict(scope["headers"]), self.root.strip(scope["path"])
        if not path:  # relative addresses on the page are relative to the last slash
            location = f"{self.root.path}/?{scope['query_string'].decode('latin-1')}".rstrip("?")
            raise TurnedAwayError(307, "moved", f"The page is at {self.root.path}/.", {"location": location})
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


def stopping() -> TurnedAwayError:
    told = "The server is stopping; ask another, or later."
    return TurnedAwayError(503, "stopping", told, {"retry-after": "5"})


def replay(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body that was read, then whatever else comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def finish(reply: Reply) -> None:
    """End an answer that was cut short: with an error if nothing of it is sent, and where it is a stream, its end."""
    if not reply.has_started:
        await refuse(reply, stopping())
    elif reply.is_stream and not reply.is_complete:
        await reply({"type": "http.response.body", "body": b""})


async def refuse(send: Send, error: TurnedAwayError) -> None:
    """An error in the form of the API's."""
    body = json.dumps({"error": {"code": error.code, "message": error.message}}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": listed})
    await send({"type": "http.response.body", "body": body})
