"""Checks of what clients of the page send, before gradio uses it.

gradio's own check of uploads misses files whose payload lacks ``meta``, and gradio logs a traceback for every invalid
input.
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
from app.serving.refusal import error_body

log = logging.getLogger(__name__)
NO_ADDRESS = "Addresses are not fetched. Upload the file."
NOT_UPLOADED = "This file was not uploaded. Upload it first."
INVALID = "The input is invalid; /gradio_api/info describes what is expected. Files are uploaded first (handle_file)."
INPUT_ERRORS = (LookupError, TypeError, ValueError, AttributeError, OSError, FnIndexInferError)
"""Exceptions that gradio raises for invalid requests."""


class CheckedBlocks(gr.Blocks):
    """Blocks that accept uploaded files only and answer invalid inputs with an error message."""

    async def preprocess_data(self, block_fn, inputs, *arguments, **options):
        try:
            check_files(inputs)
            return await super().preprocess_data(block_fn, inputs, *arguments, **options)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            log.warning("input to %s refused: %s", block_fn.api_name or block_fn.name, first_line(error))
            raise gr.Error(INVALID, print_exception=False) from None


class GallerySelection(gr.EventData):
    """Index of the selected picture in a gallery; -1 if the client sends no valid index."""

    def __init__(self, target: Any, data: Any):
        super().__init__(target, data)
        index = data.get("index") if isinstance(data, dict) else None
        self.index = index if isinstance(index, int) else -1


def check_files(inputs: Any) -> None:
    """Check that every file among the inputs is an upload.

    Raises:
        gr.Error: a file is an address or lies outside the upload folder.
    """
    folder = Path(get_upload_folder()).resolve()
    for file in find_files(inputs):
        path, url = file.get("path"), file.get("url")
        if ADDRESS.match(str(path or url or "")):
            raise gr.Error(NO_ADDRESS, print_exception=False)
        if path is not None and not Path(path).resolve().is_relative_to(folder):
            raise gr.Error(NOT_UPLOADED, print_exception=False)


def find_files(value: Any) -> Iterator[dict]:
    """All values, at any depth, that describe a file."""
    if isinstance(value, dict):
        if "path" in value or "url" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from find_files(part)


async def fetch_nothing(url: str) -> NoReturn:
    """Replacement for gradio's download of addresses that clients name."""
    raise gr.Error(NO_ADDRESS, print_exception=False)


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """Reply to a request that gradio cannot handle."""
    log.warning("%s %s refused: %s", request.method, request.url.path, first_line(error))
    return JSONResponse(error_body("invalid_request", INVALID), 422)


def first_line(error: Exception) -> str:
    """Type and first line of an exception, at most 200 characters, for one line of the log."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]!r}"
