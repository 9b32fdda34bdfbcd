"""Many clients, one model: what arrives together is answered in one batch, and no more is taken on than can be done."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from batched.aio import AsyncBatchProcessor
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.inference.predictor import Predictor
from data import Example
from data.errors import UserError
from data.images import count_pixels

log = logging.getLogger(__name__)
Pair = tuple[str | bytes | UserError | None, str | None]
"""A file or the bytes of an image, or what is wrong with it, and a text."""
T = TypeVar("T")
ROUTES = {"/v1/predict": "POST", "/v1/model": "GET"}
"""The API's paths, and how they are asked."""
MAX_PICTURES = 4
"""Pictures of the largest size allowed whose pixels may be in memory at a time."""


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: the HTTP status that says so.
        code: a word for programs.
        message: a sentence for people.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


class Engine:
    """Answers requests in batches, in the order they came; equal images of a batch share one pass.

    Args:
        predictor: the model.
        batch_size: most pairs in a batch.
        linger: milliseconds that a batch which is not full waits for more.
        max_waiting: pairs that may wait; further ones are refused.
        timeout: seconds after which a request is given up.

    Attributes:
        jobs_of_page: how many jobs of the page wait or run.
        deadline: when, by `time.monotonic`, a server that stops gives up what is left; never before it stops.
    """

    def __init__(
        self,
        predictor: Predictor,
        batch_size: int = 32,
        linger: float = 2.0,
        max_waiting: int = 256,
        timeout: float = 30.0,
    ):
        self.predictor = predictor
        self.max_waiting, self.timeout = max_waiting, timeout
        self.waiting = self.pixels = 0
        self.is_warm = self.is_draining = False
        self.answerer = ThreadPoolExecutor(1, "answer")  # of its own, so that no other work holds a batch up
        self.decoders = ThreadPoolExecutor(4, "decode")
        self.deadline = math.inf
        self.jobs_of_page: Callable[[], int] = lambda: 0
        self.explaining = asyncio.Semaphore(1)
        self.batches = AsyncBatchProcessor(self.answer_batch, batch_size=batch_size, timeout_ms=linger)
        self.registry = CollectorRegistry()
        self.pairs = Counter("pairs", "Pairs answered", registry=self.registry)
        self.unsure = Counter("pairs_not_sure", "Pairs whose answer is not sure", registry=self.registry)
        sizes = [1, 2, 4, 8, 16, 32, 64]
        self.batch_sizes = Histogram("batch_pairs", "Pairs in a batch", buckets=sizes, registry=self.registry)
        self.requests = Counter("requests", "Requests to the API", ["path", "status"], registry=self.registry)
        self.seconds = Histogram("request_seconds", "Time to an answer", ["path"], registry=self.registry)
        Gauge("pairs_waiting", "Pairs that wait for an answer", registry=self.registry).set_function(
            lambda: self.waiting
        )

    def warm_up(self) -> None:
        """One answer before the first client comes: kernels are chosen, memory is taken."""
        self.predictor.predict([(None, "warm up")])
        self.is_warm = True

    def stop(self) -> None:
        """Answer what was accepted, for as long as one request may take; `Guard` turns new requests away."""
        self.is_draining, self.deadline = True, time.monotonic() + self.timeout

    @property
    def is_idle(self) -> bool:
        """Whether nothing that was accepted is still to be answered, by the API or on the page."""
        return self.waiting == 0 and self.jobs_of_page() == 0

    @property
    def is_ready(self) -> bool:
        return self.is_warm and not self.is_draining

    async def ask(self, pairs: Sequence[Pair]) -> tuple[list[Example | UserError], list[np.ndarray]]:
        """Prepare and answer the pairs of one request.

        Places in the queue, and memory for its pictures, are taken before a picture is decoded.

        Returns:
            each pair, or what is wrong with it; and the probabilities ``(C,)`` of those that nothing is wrong with.

        Raises:
            RefusedError: too many wait already, it takes too long, or the model fails.
        """
        images = {image for image, _ in pairs if isinstance(image, bytes | str)}
        pixels = sum(count_pixels(image) for image in images)
        self.take(len(pairs), pixels)
        work = asyncio.ensure_future(self.work(pairs))
        work.add_done_callback(lambda done: self.leave(len(pairs), pixels, done))
        try:
            # Shielded: the batch goes on when a client's time is up, since others share it.
            return await asyncio.wait_for(asyncio.shield(work), self.timeout)
        except asyncio.TimeoutError:
            raise RefusedError(504, "timeout", f"No answer within {self.timeout:g} s; try again.", 1) from None

    def take(self, number: int, pixels: int) -> None:
        """Places for that many pairs with that many pixels."""
        most = self.predictor.max_pixels * MAX_PICTURES
        if pixels > most:
            told = f"The images of the request have {pixels:,} pixels together; {most:,} are allowed."
            raise RefusedError(413, "too_many_pixels", told)
        if self.waiting + number > self.max_waiting or self.pixels + pixels > most:
            told = f"The queue is full: {self.waiting} of {self.max_waiting} pairs wait; try again."
            raise RefusedError(429, "too_many_requests", told, 1)
        self.waiting += number
        self.pixels += pixels

    def count(self, path: str, status: int, seconds: float) -> None:
        """One request to the API, for ``/metrics``."""
        if path.startswith("/v1"):
            path = path if path in ROUTES else "other"
            self.requests.labels(path, status).inc()
            self.seconds.labels(path).observe(seconds)

    def leave(self, number: int, pixels: int, done: asyncio.Future) -> None:
        self.waiting -= number
        self.pixels -= pixels
        if not done.cancelled():
            done.exception()  # of a client that has left nobody else would ask

    async def work(self, pairs: Sequence[Pair]) -> tuple[list[Example | UserError], list[np.ndarray]]:
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self.decoders, self.predictor.prepare, pairs)
        examples = [example for example in prepared if isinstance(example, Example)]
        found = await self.batches(examples) if examples else []
        if any(isinstance(answer, Exception) for answer in found):
            raise RefusedError(500, "model_failed", "The model failed on this input; the server's log says why.")
        return prepared, found

    async def explain(self, tell: Callable[..., T], *arguments) -> T:
        """Something that computes for long, one at a time, beside the batches."""
        async with self.explaining:
            return await asyncio.to_thread(tell, *arguments)

    async def answer_batch(self, examples: list[Example]) -> list[np.ndarray | Exception]:
        return await asyncio.get_running_loop().run_in_executor(self.answerer, self.answer, examples)

    def answer(self, examples: list[Example]) -> list[np.ndarray | Exception]:
        """One batch; if it fails its pairs are tried one by one, so that one fails alone."""
        try:
            found: list[np.ndarray | Exception] = list(self.predictor.probabilities(examples))
        except Exception as error:
            log.exception("a batch of %d pairs failed", len(examples))
            found = [error] if len(examples) == 1 else [self.answer([example])[0] for example in examples]
        self.batch_sizes.observe(len(examples))
        return found
