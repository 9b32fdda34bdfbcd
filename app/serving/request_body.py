"""From the body of a request to pairs of an image and a text, or what is wrong with it."""

from __future__ import annotations

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from app.serving.base64_image import decode_base64
from app.serving.engine import RefusedError
from app.serving.schemas import MAX_INPUTS, MAX_TEXT, PredictRequest
from data import BadImageError, Example
from data.errors import UserError


async def read_request(request: Request) -> tuple[list[tuple[bytes | UserError | None, str | None]], int]:
    """Images and texts of a request, as JSON or as a form; an image that is no base64 is a fault of its pair.

    Raises:
        RefusedError: a body that is not as documented.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            asked = PredictRequest.model_validate_json(await request.body())
        except ValidationError as error:
            raise RefusedError(*describe_invalid(error)) from None
        return [(image_bytes(item.image), item.text) for item in asked.inputs], asked.top_k
    if kind == "multipart/form-data":
        return await read_form(request)
    raise RefusedError(415, "unsupported_media_type", "Send application/json or multipart/form-data.")


async def read_form(request: Request) -> tuple[list[tuple[bytes | UserError | None, str | None]], int]:
    """One image with one text or several."""
    try:
        async with request.form(max_files=1, max_fields=MAX_INPUTS + 1, max_part_size=4 * MAX_TEXT) as form:
            image, texts, top_k = form.get("image"), form.getlist("text"), form.get("top_k", "3")
            if unknown := sorted(set(form) - {"image", "text", "top_k"}):
                raise RefusedError(422, "invalid_request", f"Unknown fields: {', '.join(unknown)[:100]}.")
            data = await image.read() if isinstance(image, UploadFile) else None
            if image is not None and data is None:
                raise RefusedError(
                    422, "invalid_request", "The field image must be a file, as curl -F image=@picture.png sends it."
                )
    except (MultiPartException, HTTPException) as error:
        told = error.message if isinstance(error, MultiPartException) else error.detail
        raise RefusedError(400, "invalid_form", f"The form cannot be read: {told}.") from None
    if any(isinstance(text, UploadFile) for text in texts):
        raise RefusedError(422, "invalid_request", "The field text must be text, not a file.")
    try:
        inputs = [{"text": text} for text in texts] or [{}]
        asked = PredictRequest.model_validate({"inputs": inputs, "top_k": top_k})
    except ValidationError as error:
        raise RefusedError(*describe_invalid(error)) from None
    return [(data, item.text) for item in asked.inputs], asked.top_k


def image_bytes(image: str | None) -> bytes | UserError | None:
    """The bytes of an image in JSON, or what is wrong with it."""
    try:
        return None if image is None else decode_base64(image)
    except BadImageError as error:
        return error


def fault(error: Example | UserError) -> tuple[str, str]:
    """Code and sentence of a faulty pair."""
    return "unreadable_image" if isinstance(error, BadImageError) else "invalid_input", str(error)


def describe_invalid(error: ValidationError) -> tuple[int, str, str]:
    """Status, code and sentence of the first thing that is wrong."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return 400, "invalid_json", f"The body is not JSON: {first['msg']}."
    place = ".".join(str(part) for part in first["loc"])
    return (
        422,
        "invalid_request",
        f"{f'The field {place}' if place else 'The body'} is not as expected: {first['msg']}."[:300],
    )
