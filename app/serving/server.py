"""Start and stop: the model, the API and the page in one process."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import uvicorn

from app.predictor import Predictor
from app.serving.api import build_api, load_metrics
from app.serving.engine import Engine
from app.serving.guard import Guard
from app.serving.schemas import MAX_INPUTS, MAX_TEXT

LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY_VARIABLE = "API_KEY"
GRACE = 1.0
"""Seconds in which a connection that is there when the server stops may still send its request; it is told 503."""
T = TypeVar("T")


def described(default: T, told: str) -> T:
    """A field with its default and its help."""
    return field(default=default, metadata={"help": told})


@dataclass(frozen=True)
class ServeSettings:
    """How to serve."""

    host: str = described("127.0.0.1", "address to listen on; 0.0.0.0 opens it to the network")
    port: int = described(7860, "port to listen on")
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


class Server(uvicorn.Server):
    """Says when it is there, and that it is stopping before it stops: what was accepted is answered, what comes then is
    refused."""

    def __init__(self, config: uvicorn.Config, engine: Engine, greeting: str):
        super().__init__(config)
        self.engine, self.greeting = engine, greeting

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.greeting, flush=True)

    def handle_exit(self, sig, frame) -> None:
        self.engine.stop()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets=None) -> None:
        for server in self.servers:
            server.close()
        if not self.force_exit:
            await asyncio.sleep(GRACE)  # uvicorn would cut connections whose request is still on its way
        await super().shutdown(sockets)


def build_app(
    run: str, settings: ServeSettings, api_key: str | None = None, trust_custom_encoder: bool = False
) -> tuple[Guard, Engine]:
    """The guarded application and its engine.

    Args:
        run: a run folder, a model folder or a Hub id.
        api_key: that programs must show, and that is the password of the page.

    Raises:
        ValueError: no model there, or a setting that makes no sense.
    """
    if settings.linger <= 0 or settings.max_waiting < MAX_INPUTS:
        raise ValueError(f"linger must be above 0 and max_waiting at least {MAX_INPUTS}, the pairs of one request.")
    if not re.fullmatch(r"(https?://[\w.:-]+)?", settings.embed_in):
        raise ValueError(f"embed_in is {settings.embed_in!r}; expected an origin, as https://huggingface.co.")
    limits = {"max_pixels": settings.max_pixels, "max_text": MAX_TEXT}
    predictor = Predictor.from_pretrained(run, None, trust_custom_encoder, precision=settings.precision, **limits)
    engine = Engine(predictor, settings.batch_size, settings.linger, settings.max_waiting, settings.timeout)
    app = build_api(engine, Path(run).name, load_metrics(Path(run)), api_key is not None)
    if settings.page:
        from app.serving.page import mount_page  # gradio takes seconds to import

        app = mount_page(app, engine, Path(run), api_key)
    hosts = LOOPBACK if settings.host in LOOPBACK and api_key is None else None
    return Guard(app, settings.max_bytes, settings.timeout, api_key, hosts, engine.count, settings.embed_in), engine


def serve(run: str, settings: ServeSettings, trust_custom_encoder: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C; the key is read from the environment, so that no list of processes shows it."""
    api_key = os.environ.get(KEY_VARIABLE) or None
    if settings.host not in LOOPBACK and api_key is None:
        print(
            f"warning: {settings.host} can be reached by others, and no key protects it. Set one: "
            f"{KEY_VARIABLE}=… {shlex.join(['python', '-m', 'app', 'serve', run])} …",
            file=sys.stderr,
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # raised again by uvicorn at its end
    with tempfile.TemporaryDirectory(prefix="uploads-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        app, engine = build_app(run, settings, api_key, trust_custom_encoder)
        config = uvicorn.Config(
            app,
            settings.host,
            settings.port,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=int(settings.timeout) + 1,
        )
        here = f"http://{'127.0.0.1' if settings.host == '0.0.0.0' else settings.host}:{settings.port}"
        greeting = (
            f"{run} is served" + (f" as a page on {here}/" if settings.page else "") + f"\n"
            f"  API: {here}/openapi.json, for instance:\n"
            f"  curl -F image=@picture.png -F text='a question' {here}/v1/predict\n"
            "Stop with Ctrl-C."
        )
        with suppress(KeyboardInterrupt):
            Server(config, engine, greeting).run()
