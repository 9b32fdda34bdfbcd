"""Many clients, one model: what arrives together is answered in one batch, and no more is taken on than can be done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np
from batched.aio import AsyncBatchProcessor
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.predictor import Predictor
from data import Example

log = logging.getLogger(__name__)


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
        self.waiting = 0
        self.is_warm = self.is_draining = False
        self.batches = AsyncBatchProcessor(self.answer, batch_size=batch_size, timeout_ms=linger)
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

    @property
    def is_ready(self) -> bool:
        return self.is_warm and not self.is_draining

    async def probabilities(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """Probabilities ``(C,)`` of each pair.

        Raises:
            RefusedError: too many wait already, the server is stopping, it takes too long, or the model fails.
        """
        if self.is_draining:
            raise RefusedError(503, "stopping", "The server is stopping; ask another, or later.", 5)
        if self.waiting + len(examples) > self.max_waiting:
            raise RefusedError(
                429,
                "too_many_requests",
                f"The queue is full: {self.waiting} of {self.max_waiting} pairs wait; try again.",
                1,
            )
        self.waiting += len(examples)
        work = asyncio.ensure_future(self.batches(list(examples)))
        work.add_done_callback(lambda _: self.leave(len(examples)))
        try:
            # Shielded: the batch goes on when a client's time is up, since others share it.
            found = await asyncio.wait_for(asyncio.shield(work), self.timeout)
        except asyncio.TimeoutError:
            raise RefusedError(504, "timeout", f"No answer within {self.timeout:g} s; try again.", 1) from None
        if any(isinstance(answer, Exception) for answer in found):
            raise RefusedError(500, "model_failed", "The model failed on this input; the server's log says why.")
        return found

    def leave(self, number: int) -> None:
        self.waiting -= number

    def answer(self, examples: list[Example]) -> list[np.ndarray | Exception]:
        """One batch, in a thread of its own; if it fails its pairs are tried one by one, so that one fails alone."""
        try:
            found: list[np.ndarray | Exception] = list(self.predictor.probabilities(examples))
        except Exception as error:
            log.exception("a batch of %d pairs failed", len(examples))
            found = [error] if len(examples) == 1 else [self.answer([example])[0] for example in examples]
        self.batch_sizes.observe(len(examples))
        return found
