"""Dynamic batching with a bounded queue: requests that arrive together share a batch; excess requests are refused."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from batched.aio import AsyncBatchProcessor
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.inference.predictor import Predictor
from app.serving.refusal import RefusedError, retry_after
from data import Example
from data.contexts import ContextCell
from data.errors import UserError
from data.images import count_pixels

log = logging.getLogger(__name__)
Stored = str | bytes | UserError | None
"""An image: a file name, encoded bytes, or the reason why it cannot be read."""
Cells = Mapping[str, ContextCell | None] | UserError
"""Further contexts by name, or the reason why one cannot be read."""
Pair = tuple[Stored, str | None] | tuple[Stored, str | None, Cells]
"""Image and text, and the further contexts of a model that has some."""
T = TypeVar("T")
ROUTES = {"/v1/predict": "POST", "/v1/model": "GET"}
"""Paths of the API and their methods."""
MAX_PICTURES = 4
"""Maximum number of decoded pictures in memory, as a multiple of the largest picture allowed."""


class Engine:
    """Answers requests in batches, in order of arrival. Equal images in a batch share one pass of the image encoder.

    Args:
        predictor: the model.
        batch_size: maximum number of pairs in a batch.
        linger: time an incomplete batch waits for more pairs, in milliseconds.
        max_waiting: maximum number of waiting pairs.
        timeout: maximum time for a request, in seconds.

    Attributes:
        waiting: number of pairs that wait for an answer.
        pixels: number of pixels of the pictures of waiting pairs.
        page_jobs: returns the number of waiting and running jobs of the page.
        deadline: time (`time.monotonic`) at which a stopping server abandons unfinished requests; infinite until then.
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
        self.model_thread = ThreadPoolExecutor(1, "model")  # separate, so that other work cannot delay a batch
        self.decoders = ThreadPoolExecutor(4, "decode")
        self.deadline = math.inf
        self.page_jobs: Callable[[], int] = lambda: 0
        self.explainer = ThreadPoolExecutor(1, "explain")  # one explanation at a time, beside the batches
        self.batches = AsyncBatchProcessor(self.run_batch, batch_size=batch_size, timeout_ms=linger)
        self.registry = CollectorRegistry()
        self.pairs = Counter("pairs", "Answered pairs", registry=self.registry)
        self.unsure = Counter("pairs_not_sure", "Answered pairs below the confidence threshold", registry=self.registry)
        sizes = [1, 2, 4, 8, 16, 32, 64]
        self.batch_sizes = Histogram("batch_pairs", "Pairs per batch", buckets=sizes, registry=self.registry)
        self.requests = Counter("requests", "Requests to the API", ["path", "status"], registry=self.registry)
        self.seconds = Histogram("request_seconds", "Duration of requests to the API", ["path"], registry=self.registry)
        Gauge("pairs_waiting", "Pairs that wait for an answer", registry=self.registry).set_function(
            lambda: self.waiting
        )

    def warm_up(self) -> None:
        """Run the model once, so that the first request does not wait for kernels and memory."""
        contexts = dict.fromkeys(context.name for context in self.predictor.contexts)
        text = "warm up" if self.predictor.model.config.has_text else None
        self.predictor.predict([(Image.new("RGB", (32, 32)), text, contexts)])
        self.is_warm = True

    def stop(self) -> None:
        """Start draining: accepted requests are answered until the deadline; `Guard` refuses new ones."""
        self.is_draining, self.deadline = True, time.monotonic() + self.timeout

    @property
    def is_idle(self) -> bool:
        """Whether all accepted work of the API and the page is done."""
        return self.waiting == 0 and self.page_jobs() == 0

    @property
    def is_ready(self) -> bool:
        return self.is_warm and not self.is_draining

    async def ask(self, pairs: Sequence[Pair]) -> tuple[list[Example | UserError], list[np.ndarray]]:
        """Prepare and answer the pairs of one request.

        Space in the queue and in memory is reserved before a picture is decoded.

        Returns:
            The prepared pairs, with an error in place of each invalid one, and the class probabilities ``(C,)`` of the
            valid ones.

        Raises:
            RefusedError: the queue is full (429), the images are too large (413), the model fails (500) or does not
                answer in time (504).
        """
        frames = self.predictor.model.config.frames
        pixels = sum(count_pixels(image, frames) for image in self.stored_pictures(pairs))
        self.reserve(len(pairs), pixels)
        work = asyncio.ensure_future(self.prepare_and_answer(pairs))
        work.add_done_callback(lambda done: self.release(len(pairs), pixels, done))
        try:
            # Shielded: other requests share the batch, so it continues after one request times out.
            return await asyncio.wait_for(asyncio.shield(work), self.timeout)
        except asyncio.TimeoutError:
            message = f"There was no answer within {self.timeout:g} s. Try again."
            raise RefusedError(504, "timeout", message, retry_after(1)) from None

    def stored_pictures(self, pairs: Sequence[Pair]) -> set[str | bytes]:
        """The different pictures of pairs, also those of contexts, before they are decoded."""
        names = [context.name for context in self.predictor.contexts if context.kind == "image"]
        found: list[Any] = [image for image, *_ in pairs]
        for cells in (pair[2] for pair in pairs if len(pair) == 3 and not isinstance(pair[2], UserError)):
            found += [cell.value for name in names if (cell := cells.get(name)) is not None]
        return {image for image in found if isinstance(image, bytes | str)}

    def reserve(self, num_pairs: int, pixels: int) -> None:
        """Reserve space in the queue and in memory.

        Raises:
            RefusedError: there is not enough.
        """
        max_pixels = self.predictor.preparation.max_pixels * MAX_PICTURES
        if pixels > max_pixels:
            message = f"The images of the request have {pixels:,} pixels in total; at most {max_pixels:,} are allowed."
            raise RefusedError(413, "too_many_pixels", message)
        if self.waiting + num_pairs > self.max_waiting or self.pixels + pixels > max_pixels:
            message = f"The queue is full: {self.waiting} of {self.max_waiting} pairs are waiting. Try again."
            raise RefusedError(429, "too_many_requests", message, retry_after(1))
        self.waiting += num_pairs
        self.pixels += pixels

    def release(self, num_pairs: int, pixels: int, done: asyncio.Future | Future) -> None:
        """Release what `reserve` reserved."""
        self.waiting -= num_pairs
        self.pixels -= pixels
        if not done.cancelled():
            done.exception()  # marks it as retrieved if the client has disconnected

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Record a request to the API for ``/metrics``."""
        if path.startswith("/v1"):
            path = path if path in ROUTES else "other"
            self.requests.labels(path, status).inc()
            self.seconds.labels(path).observe(seconds)

    def count_answer(self, is_sure: bool) -> None:
        """Record an answered pair for ``/metrics``."""
        self.pairs.inc()
        self.unsure.inc(not is_sure)

    async def prepare_and_answer(self, pairs: Sequence[Pair]) -> tuple[list[Example | UserError], list[np.ndarray]]:
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self.decoders, self.predictor.prepare, pairs)
        examples = [example for example in prepared if isinstance(example, Example)]
        found = await self.batches(examples) if examples else []
        if any(isinstance(answer, Exception) for answer in found):
            message = "The model failed on this input. The log of the server has the reason."
            raise RefusedError(500, "model_failed", message)
        return prepared, found

    async def explain(self, compute: Callable[[list[Example]], T], examples: list[Example]) -> T:
        """Run a slow computation on prepared pairs in a thread beside the batches, one at a time.

        Space in the queue and in memory is reserved until the computation ends. One that has not begun in time is
        dropped.

        Raises:
            RefusedError: the queue is full (429), the computation fails (500) or does not end in time (504).
        """
        pictures = {one.image_key: one.image for one in examples if isinstance(one.image, Image.Image)}
        num_pairs, pixels = len(examples), sum(picture.width * picture.height for picture in pictures.values())
        self.reserve(num_pairs, pixels)
        loop, work = asyncio.get_running_loop(), self.explainer.submit(compute, examples)
        work.add_done_callback(lambda done: loop.call_soon_threadsafe(self.release, num_pairs, pixels, done))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), self.timeout)
        except asyncio.TimeoutError:
            message = f"There was no explanation within {self.timeout:g} s. Try again, or ask without it."
            raise RefusedError(504, "timeout", message, retry_after(1)) from None
        except Exception:
            log.exception("an explanation of %d pairs failed", num_pairs)
            message = "The explanation failed. The log of the server has the reason."
            raise RefusedError(500, "model_failed", message) from None

    async def run_batch(self, examples: list[Example]) -> list[np.ndarray | Exception]:
        return await asyncio.get_running_loop().run_in_executor(self.model_thread, self.answer, examples)

    def answer(self, examples: list[Example]) -> list[np.ndarray | Exception]:
        """Class probabilities of one batch. If the batch fails, each pair is retried alone."""
        try:
            found: list[np.ndarray | Exception] = list(self.predictor.probabilities(examples))
        except Exception as error:
            log.exception("a batch of %d pairs failed", len(examples))
            found = [error] if len(examples) == 1 else [self.answer([example])[0] for example in examples]
        self.batch_sizes.observe(len(examples))
        return found
