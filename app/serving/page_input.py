"""What clients of the page send, checked before gradio uses it.

gradio's own check of files passes an image whose payload leaves ``meta`` out, and it logs a traceback for every input
that does not fit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import gradio as gr
from fastapi import Request
from fastapi.responses import JSONResponse
from gradio.route_utils import FnIndexInferError
from gradio.utils import get_upload_folder

from app.serving.guard import ADDRESS

log = logging.getLogger(__name__)
NO_ADDRESS = "No address is fetched: upload the file."
UNFIT = "What was sent does not fit: /gradio_api/info says what does. Files are uploaded first (handle_file)."
FAULTS = (LookupError, TypeError, ValueError, AttributeError, OSError, FnIndexInferError)
"""What gradio raises at requests that no page sends."""


class Page(gr.Blocks):
    """Blocks that take no other files than those that were uploaded, and refuse in words what they cannot use."""

    async def preprocess_data(self, block_fn, inputs, *arguments, **options):
        try:
            check_files(inputs)
            return await super().preprocess_data(block_fn, inputs, *arguments, **options)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            log.warning("input to %s refused: %s", block_fn.api_name or block_fn.name, first_line(error))
            raise gr.Error(UNFIT, print_exception=False) from None


class Chosen(gr.EventData):
    """Which picture of a gallery was pressed; -1 where that is not said."""

    def __init__(self, target: Any, data: Any):
        super().__init__(target, data)
        index = data.get("index") if isinstance(data, dict) else None
        self.index = index if isinstance(index, int) else -1


def check_files(inputs: Any) -> None:
    """Every file among the inputs was uploaded.

    Raises:
        gr.Error: it is an address, or lies elsewhere.
    """
    folder = Path(get_upload_folder()).resolve()
    for file in find_files(inputs):
        path, url = file.get("path"), file.get("url")
        if ADDRESS.match(str(path or url or "")):
            raise gr.Error(NO_ADDRESS, print_exception=False)
        if path is not None and not Path(path).resolve().is_relative_to(folder):
            raise gr.Error("This file was not uploaded; upload it first.", print_exception=False)


def find_files(value: Any) -> Iterator[dict]:
    """Whatever names a file, at any depth."""
    if isinstance(value, dict):
        if "path" in value or "url" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from find_files(part)


async def fetch_nothing(url: str) -> NoReturn:
    """In the place of gradio's download of what a client names."""
    raise gr.Error(NO_ADDRESS, print_exception=False)


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """A request that gradio cannot make anything of."""
    log.warning("%s %s refused: %s", request.method, request.url.path, first_line(error))
    return JSONResponse({"error": {"code": "invalid_request", "message": UNFIT}}, 422)


def first_line(error: Exception) -> str:
    """What it is, and as much of its message as a line of the log holds."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]!r}"
