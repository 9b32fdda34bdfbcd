"""Start and stop: the model, the API and the page in one process."""

from __future__ import annotations

import asyncio
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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

import uvicorn

from app.inference.predictor import Predictor
from app.serving.api import build_api, load_metrics
from app.serving.engine import Engine
from app.serving.guard import Guard
from app.serving.root_path import RootPath
from app.serving.schemas import MAX_INPUTS, MAX_TEXT
from data.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY_VARIABLE = "API_KEY"
GRACE = 0.75
"""Seconds that a server which stops still takes connections after its last answer, and then requests of those it has:
whoever was promised an answer comes for it, whoever asks anew gets 503."""
T = TypeVar("T")


def described(default: T, told: str) -> T:
    """A field with its default and its help."""
    return field(default=default, metadata={"help": told})


@dataclass(frozen=True)
class ServeSettings:
    """How to serve."""

    host: str = described("127.0.0.1", "address to listen on; 0.0.0.0 opens it to the network")
    port: int = described(7860, "port to listen on; 0 for any that is free")
    page: bool = described(True, "serve the page for people beside the API")
    batch_size: int = described(32, "most pairs in a batch")
    linger: float = described(2.0, "milliseconds that a batch which is not full waits for more")
    max_waiting: int = described(256, "pairs that may wait; further requests get 429")
    timeout: float = described(30.0, "seconds until a request is given up (504), and in which its body must come (408)")
    max_bytes: int = described(20_000_000, "bytes of a request; larger ones get 413")
    max_pixels: int = described(50_000_000, "pixels of an image; larger ones are refused before they are decoded")
    precision: str = described(
        "auto", "no (float32), bf16 or fp16; auto: bf16 where the processor computes it natively"
    )
    embed_in: str = described("", "origin whose pages may show this one in a frame, as https://huggingface.co")
    root_path: str = described(
        "", "path under which a proxy shows the server, as /clf, or its whole address, as https://example.org/clf"
    )


class Server(uvicorn.Server):
    """Says when it is there. When it stops, what was accepted is answered, what comes then is refused, and streams that
    have no end of their own are ended.

    Args:
        config: of uvicorn, for an application in ``guard``.
        greet: called when it is there, with the port it listens on.
    """

    def __init__(self, config: uvicorn.Config, guard: Guard, engine: Engine, greet: Callable[[int], None]):
        super().__init__(config)
        self.guard, self.engine, self.greet = guard, engine, greet

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are `StopSignals`', which also holds before and after the server runs."""
        yield

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        if self.started:
            self.greet(self.servers[0].sockets[0].getsockname()[1])

    def stop(self) -> None:
        self.engine.stop()
        self.should_exit = True

    async def shutdown(self, sockets=None) -> None:
        """Ends two seconds after the last answer to what was accepted, or after the engine's deadline."""
        idle_since = time.monotonic()
        while (now := time.monotonic()) - idle_since < GRACE and now < self.engine.deadline + GRACE:
            idle_since = idle_since if self.engine.is_idle else now
            await asyncio.sleep(0.05)
        for server in self.servers:
            server.close()
        await asyncio.sleep(GRACE)
        self.guard.end_idle()
        self.config.timeout_graceful_shutdown = max(1, round(self.engine.deadline - time.monotonic()))
        await super().shutdown(sockets)


class StopSignals:
    """SIGTERM and SIGINT (Ctrl-C): the first stops the server in order, the second ends the process at once.

    Args:
        folder: deleted when the process ends at once.

    Attributes:
        code: exit code of the process: 143 after SIGTERM, else 0.
        server: what the first signal stops; without one it ends the process.
    """

    def __init__(self, folder: str):
        self.folder, self.code, self.is_told = folder, 0, False
        self.server: Server | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.is_told:
            shutil.rmtree(self.folder, ignore_errors=True)
            end_process(self.code)
        self.is_told, self.code = True, 128 + number if number == signal.SIGTERM else 0
        if self.server is None:
            sys.exit(self.code)
        self.server.stop()


def end_process(code: int) -> NoReturn:
    """At once: the interpreter would take seconds to take torch and gradio apart, and wait for what nobody asks for."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def build_app(
    run: str, settings: ServeSettings, api_key: str | None = None, trust_custom_encoder: bool = False
) -> tuple[Guard, Engine]:
    """The guarded application and its engine.

    Args:
        run: a run folder, a model folder or a Hub id.
        api_key: that programs must show, and that is the password of the page.

    Raises:
        UserError: no model there, or a setting that makes no sense.
    """
    if settings.linger <= 0 or settings.max_waiting < MAX_INPUTS:
        raise UserError(f"linger must be above 0 and max_waiting at least {MAX_INPUTS}, the pairs of one request.")
    if not re.fullmatch(r"(https?://[\w.:-]+)?", settings.embed_in):
        raise UserError(f"embed_in is {settings.embed_in!r}; expected an origin, as https://huggingface.co.")
    root = RootPath.parse(settings.root_path)
    limits = {"max_pixels": settings.max_pixels, "max_text": MAX_TEXT}
    predictor = Predictor.from_pretrained(run, None, trust_custom_encoder, precision=settings.precision, **limits)
    engine = Engine(predictor, settings.batch_size, settings.linger, settings.max_waiting, settings.timeout)
    app = build_api(engine, Path(run).name, load_metrics(Path(run)), api_key is not None)
    if settings.page:
        from app.serving.ui.page import mount_page  # gradio takes seconds to import

        app = mount_page(app, engine, Path(run), api_key, root.path)
    guard = Guard(
        app,
        settings.max_bytes,
        settings.timeout,
        api_key,
        (*LOOPBACK, root.host or "localhost") if settings.host in LOOPBACK and api_key is None else None,
        engine.count,
        settings.embed_in,
        root,
        lambda: engine.is_draining,
    )
    return guard, engine


def serve(run: str, settings: ServeSettings, trust_custom_encoder: bool = False) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C, then end the process as `StopSignals` says.

    The key is read from the environment, so that no list of processes shows it.
    """
    api_key = os.environ.get(KEY_VARIABLE) or None
    if settings.host not in LOOPBACK and api_key is None:
        print(
            f"warning: {settings.host} can be reached by others, and no key protects it. Set one: "
            f"{KEY_VARIABLE}=… {shlex.join(['python', '-m', 'app', 'serve', run])} …",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory(prefix="uploads-") as folder:
        signals = StopSignals(folder)
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = folder  # whatever is written goes with the process
        guard, engine = build_app(run, settings, api_key, trust_custom_encoder)
        config = uvicorn.Config(guard, settings.host, settings.port, log_level="warning", server_header=False)
        signals.server = Server(config, guard, engine, partial(greet, run, settings))
        signals.server.run()
    end_process(signals.code)


def greet(run: str, settings: ServeSettings, port: int) -> None:
    """Say where the server is and how it is asked."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    here = f"http://{f'[{host}]' if ':' in host else host}:{port}{RootPath.parse(settings.root_path).path}"
    print(
        f"{run} is served" + (f" as a page on {here}/" if settings.page else "") + f"\n"
        f"  API: {here}/openapi.json, for instance:\n"
        f"  curl -F image=@picture.png -F text='a question' {here}/v1/predict\n"
        "Stop with Ctrl-C.",
        flush=True,
    )
