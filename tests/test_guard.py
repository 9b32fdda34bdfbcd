"""Limits of `Guard` on sizes and numbers of requests."""

import asyncio
import json

import pytest

import app.serving.guard
from app.serving.guard import Guard


async def application(scope, receive, send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Request:
    """One request; its body arrives in chunks, of which each is counted when it is read.

    Attributes:
        num_read: chunks read so far.
        status: HTTP status of the reply.
        code: error code of the reply, if it is an error.
    """

    def __init__(self, *chunks: bytes, announced: int | None = None):
        self.chunks, self.num_read, self.status, self.code = chunks, 0, 0, None
        length = sum(map(len, chunks)) if announced is None else announced
        self.scope = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b""}
        self.scope["headers"] = [(b"content-length", str(length).encode())]
        self.may_end = asyncio.Event()

    async def receive(self) -> dict:
        if self.num_read == len(self.chunks):
            await self.may_end.wait()
            return {"type": "http.request", "body": b"", "more_body": False}
        self.num_read += 1
        return {"type": "http.request", "body": self.chunks[self.num_read - 1], "more_body": True}

    async def send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif self.status >= 400:
            self.code = json.loads(message["body"])["error"]["code"]

    def start(self, guard: Guard) -> asyncio.Task:
        return asyncio.create_task(guard(self.scope, self.receive, self.send))


async def while_open(guard: Guard, number: int, chunk: bytes) -> int:
    """Status of a further request, while a number of requests have sent a chunk and not yet their end."""
    started = [Request(chunk) for _ in range(number)]
    tasks = [request.start(guard) for request in started]
    await asyncio.sleep(0)
    further = Request(chunk)
    further.may_end.set()
    await further.start(guard)
    for request in started:
        request.may_end.set()
    await asyncio.gather(*tasks)
    assert {request.status for request in started} <= {200}
    return further.status


async def ask(guard: Guard, *chunks: bytes, **more) -> Request:
    request = Request(*chunks, **more)
    request.may_end.set()
    await request.start(guard)
    return request


def test_a_body_that_announces_too_much_is_refused_before_it_is_read():
    async def check():
        guard = Guard(application, max_bytes=10, seconds=5)
        allowed = await ask(guard, b"0123456789")
        assert (allowed.status, allowed.num_read) == (200, 1)
        refused = await ask(guard, b"0123456789", announced=11)
        assert (refused.status, refused.code, refused.num_read) == (413, "too_large", 0)

    asyncio.run(check())


def test_a_body_that_announces_less_than_it_sends_is_refused_while_it_is_read():
    async def check():
        refused = await ask(Guard(application, max_bytes=10, seconds=5), b"0123456", b"789ab", b"more", announced=3)
        assert (refused.status, refused.code, refused.num_read) == (413, "too_large", 2)

    asyncio.run(check())


@pytest.mark.parametrize(("number", "status"), [(2, 200), (3, 503)])
def test_requests_beyond_the_maximum_number_are_refused(monkeypatch, number, status):
    monkeypatch.setattr(app.serving.guard, "MAX_REQUESTS", 3)
    assert asyncio.run(while_open(Guard(application, max_bytes=10, seconds=5), number, b"x")) == status


@pytest.mark.parametrize(("number", "status"), [(1, 200), (2, 503)])
def test_bodies_that_together_need_too_much_memory_are_refused(monkeypatch, number, status):
    monkeypatch.setattr(app.serving.guard, "MAX_BODIES", 2)
    guard = Guard(application, max_bytes=10, seconds=5)
    assert asyncio.run(while_open(guard, number, b"0123456789")) == status
    assert guard.body_bytes == 0, "what was read is given back"
