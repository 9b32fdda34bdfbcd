"""Answers of the server's engine, without HTTP: one picture, several in a request, and many requests at once."""

import asyncio
import statistics
import time
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from app.inference.predictor import Predictor
from app.serving.engine import Engine, Pair
from benchmarks.gpu.rows import read_rows
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.table import Table
from benchmarks.quartiles import with_quartiles
from benchmarks.serving import build_vgg
from benchmarks.timing import timed
from data import Example, InputCollate

ABOUT = """## Serving

`Engine.ask` on JPEG files in memory, with the defaults of the server and without HTTP. Latency is that of a request,
median with quartiles. Decode and resize is the time for one picture in one thread, with its text; its share is that of
a request alone, whose pictures one thread prepares."""
COLUMNS = ["requests at once", "pictures in each", "requests", "latency, ms", "answers/s"]
COLUMNS += ["decode and resize, ms a picture", "share"]
LEAST, MOST = 5, 200
"""Number of rounds."""


def table(sizes: Sizes, folder: Path) -> Table:
    """Requests of more and more pictures, and one picture in many requests at once."""
    predictor = Predictor(*build_vgg(sizes.image))
    rows: list[Pair] = [*read_rows(folder)]
    chosen = [*((1, number) for number in sizes.requests), (sizes.clients, 1)]
    cases = [
        ([str(at_once), str(number)], partial(cells, predictor, rows, at_once, number)) for at_once, number in chosen
    ]
    return Table(ABOUT, COLUMNS, cases)


def cells(predictor: Predictor, rows: list[Pair], at_once: int, number: int, until: float) -> list[str]:
    """Latency, rate, and time of what happens before the model."""
    latencies, seconds = asyncio.run(rounds(predictor, rows, at_once, number, until))
    before = statistics.median(timed(partial(prepare, predictor, rows[:number])) for _ in range(LEAST)) / number
    share = f"{before * number / statistics.median(latencies):.1%}" if at_once == 1 else "–"
    return [
        f"{len(latencies)}",
        with_quartiles([1000 * one for one in latencies], ",.4g"),
        f"{len(latencies) * number / seconds:,.4g}",
        f"{1000 * before:.2f}",
        share,
    ]


async def rounds(
    predictor: Predictor, rows: list[Pair], at_once: int, number: int, until: float
) -> tuple[list[float], float]:
    """Latencies of requests, and the seconds of all rounds. In each round all requests begin together.

    Raises:
        RefusedError: the model failed.
    """
    engine, pairs = Engine(predictor), cycle(rows)

    async def ask() -> float:
        request = list(islice(pairs, number))
        started = time.perf_counter()
        await engine.ask(request)
        return time.perf_counter() - started

    for _ in range(2):  # warm up
        await asyncio.gather(*(ask() for _ in range(at_once)))
    latencies: list[float] = []
    started, done = time.perf_counter(), 0
    while done < LEAST or (done < MOST and time.time() < until):
        latencies += await asyncio.gather(*(ask() for _ in range(at_once)))
        done += 1
    return latencies, time.perf_counter() - started


def prepare(predictor: Predictor, rows: list[Pair]) -> None:
    """Decode and resize pictures, and tokenize their texts, as an answer does before the model."""
    examples = [example for example in predictor.prepare(rows) if isinstance(example, Example)]
    InputCollate.of(predictor.processor, predictor.model.config)(examples)
