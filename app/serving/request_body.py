"""Bodies of prediction requests: choose the route by media type and turn a body into pairs of image and text."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from app.serving.base64_image import decode_base64
from app.serving.engine import Pair
from app.serving.schemas import PredictForm, PredictRequest
from data import BadImageError
from data.errors import UserError

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


def json_pairs(body: PredictRequest) -> list[Pair]:
    """Pairs of a JSON body. An image that is not base64 becomes the error of its pair."""
    return [(image_bytes(item.image), item.text) for item in body.inputs]


async def form_pairs(form: PredictForm) -> list[Pair]:
    """Pairs of a form: its image with each of its texts."""
    image = None if form.image is None else await form.image.read()
    texts: list[str | None] = [*form.text] or [None]
    return [(image, text) for text in texts]


def image_bytes(image: str | None) -> bytes | UserError | None:
    """Bytes of an image in JSON, or the reason why it cannot be decoded."""
    try:
        return None if image is None else decode_base64(image)
    except BadImageError as error:
        return error


def pair_error(error: UserError) -> tuple[str, str]:
    """Error code and message of an invalid pair."""
    return "unreadable_image" if isinstance(error, BadImageError) else "invalid_input", str(error)
