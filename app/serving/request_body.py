"""Bodies of prediction requests: choose the route by media type and turn a body into pairs of image and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from app.inference.python_contexts import contexts_by_name
from app.serving.base64_image import decode_base64
from app.serving.engine import Pair
from app.serving.schemas import PredictForm, PredictRequest
from data import BadImageError
from data.contexts import VECTOR_FILE, ContextCell
from data.errors import UserError
from data.settings import NamedContext

JSON = "application/json"
FORM = "multipart/form-data"
MAX_FORM_FIELD = 80_000
"""Maximum size of a form field, in bytes: the longest text allowed, at four bytes per character."""


def media_type_of(headers: Mapping[str, str]) -> str:
    """Media type of a body, without parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


class MediaTypeRoute(APIRoute):
    """A route for bodies of one media type, so that one path can have a typed route for each."""

    media_type: str

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and media_type_of(Request(scope).headers) != self.media_type:
            return Match.NONE, {}
        return super().matches(scope)


class JsonRoute(MediaTypeRoute):
    """A route for JSON bodies."""

    media_type = JSON


class FormRoute(MediaTypeRoute):
    """A route for forms."""

    media_type = FORM


def json_pairs(body: PredictRequest, contexts: Sequence[NamedContext]) -> list[Pair]:
    """Pairs of a JSON body. An image that is not base64 becomes the error of its pair.

    Args:
        contexts: the further contexts of the model.
    """
    return [(image_bytes(item.image), item.text, context_cells(item.contexts, contexts)) for item in body.inputs]


async def form_pairs(form: PredictForm, contexts: Sequence[NamedContext]) -> list[Pair]:
    """Pairs of a form: its image with each of its texts."""
    image = None if form.image is None else await form.image.read()
    texts: list[str | None] = [*form.text] or [None]
    return [(image, text, context_cells(None, contexts)) for text in texts]


def image_bytes(image: str | None) -> bytes | UserError | None:
    """Bytes of an image in JSON, or the reason why it cannot be decoded."""
    try:
        return None if image is None else decode_base64(image)
    except BadImageError as error:
        return error


def context_cells(
    values: Mapping[str, Any] | None, contexts: Sequence[NamedContext]
) -> dict[str, ContextCell | None] | UserError:
    """The further contexts of a pair by name, or the reason why one cannot be read.

    Pictures and sounds come in base64, features as numbers and words: no file of the server is read.
    """
    kinds, given = {context.name: context.kind for context in contexts}, dict(values or {})
    try:
        for name, value in given.items():
            if kinds.get(name) in ("image", "audio") and value is not None:
                if not isinstance(value, str):
                    raise UserError(f"The context {name} is a file: send it in base64.")
                given[name] = decode_base64(value)
            elif kinds.get(name) == "features":
                refuse_files(name, value)
        return contexts_by_name(given, contexts)
    except UserError as error:
        return error


def refuse_files(name: str, value: Any) -> None:
    """Refuse the path of a file among features.

    Raises:
        UserError: a value that would be read as a file.
    """
    for cell in value.values() if isinstance(value, Mapping) else [value]:
        if isinstance(cell, str) and cell.lower().endswith(VECTOR_FILE):
            raise UserError(f"The context {name} names a file; send its numbers instead.")


def pair_error(error: UserError) -> tuple[str, str]:
    """Error code and message of an invalid pair."""
    return "unreadable_image" if isinstance(error, BadImageError) else "invalid_input", str(error)
