"""Start and stop the server: the model, the API and the page in one process."""

from __future__ import annotations

import asyncio
import math
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn

from app.inference.predictor import Predictor
from app.serving.api import build_api, load_metrics
from app.serving.engine import Engine
from app.serving.guard import Guard
from app.serving.root_path import RootPath
from app.serving.schemas import MAX_INPUTS, MAX_TEXT
from app.serving.serve_settings import ServeSettings
from data.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY_VARIABLE = "API_KEY"
MAX_PORT = 65535
GRACE = 0.75
"""Time in seconds that a stopping server accepts connections after its last answer, and then requests on open
connections. Clients fetch the answers that they were promised, for example the file of a table; new work gets 503."""


class Server(uvicorn.Server):
    """A server that stops gracefully.

    Accepted requests are answered, new ones are refused with 503, and event streams are ended.

    Args:
        config: settings of uvicorn for the application in ``guard``.
        on_start: called with the port once the server listens.
    """

    def __init__(self, config: uvicorn.Config, guard: Guard, engine: Engine, on_start: Callable[[int], None]):
        super().__init__(config)
        self.guard, self.engine, self.on_start = guard, engine, on_start

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `StopSignals`, which also handles them before and after the server runs."""
        yield

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_start(self.servers[0].sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Begin to stop; `run` returns when that is done."""
        self.engine.stop()
        self.should_exit = True

    async def shutdown(self, sockets=None) -> None:
        """Wait until accepted work is done, or the deadline of the engine, then close all connections."""
        idle_since = time.monotonic()
        while (now := time.monotonic()) - idle_since < GRACE and now < self.engine.deadline + GRACE:
            idle_since = idle_since if self.engine.is_idle else now
            await asyncio.sleep(0.05)
        for server in self.servers:
            server.close()
        await asyncio.sleep(GRACE)
        self.guard.end_streams()
        self.config.timeout_graceful_shutdown = max(1, round(self.engine.deadline - time.monotonic()))
        await super().shutdown(sockets)


class StopSignals:
    """Handler of SIGTERM and SIGINT (Ctrl-C): the first stops the server, the second ends the process at once.

    Args:
        folder: temporary folder, deleted when the process ends at once.

    Attributes:
        code: exit code of the process: 143 after SIGTERM, otherwise 0.
        server: server to stop. Before it is set, a signal ends the process.
    """

    def __init__(self, folder: str):
        self.folder, self.code, self.is_stopping = folder, 0, False
        self.server: Server | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.is_stopping:
            shutil.rmtree(self.folder, ignore_errors=True)
            end_process(self.code)
        self.is_stopping, self.code = True, 128 + number if number == signal.SIGTERM else 0
        if self.server is None:
            sys.exit(self.code)
        self.server.stop()


def end_process(code: int) -> NoReturn:
    """Exit without the interpreter's clean-up, which takes seconds for torch and gradio and waits for their threads."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def check_settings(settings: ServeSettings) -> None:
    """Check the settings before the model is loaded.

    Raises:
        UserError: a setting is invalid.
    """
    for name in ("batch_size", "max_bytes", "max_pixels"):
        if (number := getattr(settings, name)) < 1:
            raise UserError(f"{name} must be at least 1, got {number}.")
    for name in ("linger", "timeout"):
        if not 0 < (value := getattr(settings, name)) < math.inf:  # also false for NaN
            raise UserError(f"{name} must be above 0 and finite, got {value:g}.")
    if not 0 <= settings.port <= MAX_PORT:
        raise UserError(f"port must be from 0, which chooses a free one, to {MAX_PORT}, got {settings.port}.")
    if settings.max_waiting < MAX_INPUTS:
        raise UserError(
            f"max_waiting must be at least {MAX_INPUTS}, the largest number of pairs in a request, "
            f"got {settings.max_waiting}."
        )
    if not re.fullmatch(r"(https?://[\w.:-]+)?", settings.embed_in):
        raise UserError(f"embed_in is {settings.embed_in!r}; expected an origin, for example https://huggingface.co.")
    RootPath.parse(settings.root_path)


def load_predictor(run: str, settings: ServeSettings, trust_custom_encoder: bool = False) -> Predictor:
    """Load a model with the precision and the limits of the server.

    Args:
        run: a run folder, a model folder or a Hub id.

    Raises:
        UserError: there is no model.
    """
    limits = {"max_pixels": settings.max_pixels, "max_text": MAX_TEXT}
    return Predictor.from_pretrained(run, None, trust_custom_encoder, precision=settings.precision, **limits)


def build_app(
    predictor: Predictor, run: Path, settings: ServeSettings, api_key: str | None = None
) -> tuple[Guard, Engine]:
    """Build the ASGI application and its engine.

    Args:
        run: the run folder, for the report, the curves and the examples on the page; its name is that of the model.
        api_key: key that the API requires and password of the page.

    Raises:
        UserError: a setting is invalid.
    """
    check_settings(settings)
    root = RootPath.parse(settings.root_path)
    engine = Engine(predictor, settings.batch_size, settings.linger, settings.max_waiting, settings.timeout)
    app = build_api(engine, run.name, load_metrics(run), api_key is not None)
    if settings.page:
        from app.serving.ui.page import mount_page  # gradio takes seconds to import

        app = mount_page(app, engine, run, api_key, root.path)
    guard = Guard(
        app,
        settings.max_bytes,
        settings.timeout,
        api_key,
        (*LOOPBACK, root.host or "localhost") if settings.host in LOOPBACK and api_key is None else None,
        engine.count_request,
        settings.embed_in,
        root,
        lambda: engine.is_draining,
    )
    return guard, engine


def serve(run: str, settings: ServeSettings, trust_custom_encoder: bool = False) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C, then end the process with the exit code of `StopSignals`.

    The key is read from the environment, since command lines are visible to other users.
    """
    check_settings(settings)
    api_key = os.environ.get(KEY_VARIABLE) or None
    if settings.host not in LOOPBACK and api_key is None:
        print(
            f"warning: {settings.host} accepts connections from other machines without a key. Set one: "
            f"{KEY_VARIABLE}=… {shlex.join(['python', '-m', 'app', 'serve', run])} …",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory(prefix="uploads-") as folder:
        signals = StopSignals(folder)
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = folder  # deleted on exit
        predictor = load_predictor(run, settings, trust_custom_encoder)
        guard, engine = build_app(predictor, Path(run), settings, api_key)
        config = uvicorn.Config(guard, settings.host, settings.port, log_level="warning", server_header=False)
        signals.server = Server(config, guard, engine, partial(greet, run, settings))
        signals.server.run()
    end_process(signals.code)


def greet(run: str, settings: ServeSettings, port: int) -> None:
    """Print the addresses of the page and the API, with an example request."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    here = f"http://{f'[{host}]' if ':' in host else host}:{port}{RootPath.parse(settings.root_path).path}"
    page = f"  Page: {here}/\n" if settings.page else ""
    print(
        f"Serving {run}\n{page}  API: {here}/openapi.json, for example:\n"
        f"  curl -F image=@picture.png -F text='a question' {here}/v1/predict\n"
        "Stop with Ctrl-C.",
        flush=True,
    )
