"""Exceptions of the API as error replies, all in one form and without stack traces."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.serving.refusal import RefusedError, error_body
from app.serving.request_body import FORM, JSON, media_type_of


def add_error_handlers(api: FastAPI) -> None:
    """Give all errors the same form, without stack traces."""

    def reply(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse(error_body(code, message), status, headers)

    @api.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return reply(error.status, error.code, error.message, error.headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return reply(*describe_invalid(error))

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        unreadable = {JSON: "invalid_json", FORM: "invalid_form"}.get(media_type_of(request.headers), "http_error")
        code = unreadable if error.status_code == 400 else "http_error"
        return reply(error.status_code, code, str(error.detail), error.headers)

    @api.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:  # uvicorn logs it
        return reply(500, "internal", "There was an internal error. The log of the server has the reason.")


def describe_invalid(error: RequestValidationError) -> tuple[int, str, str]:
    """Status, code and message for the first invalid value of a request."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return 400, "invalid_json", f"The body is not JSON: {first['ctx']['error']}."
    name = ".".join(str(part) for part in first["loc"][1:])  # after "body"
    return 422, "invalid_request", f"{f'The field {name}' if name else 'The body'} is invalid: {first['msg']}."[:300]
