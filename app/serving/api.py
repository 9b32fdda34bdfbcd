"""The API for programs: documented routes, errors as JSON with a code and a sentence."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from app.page import describe_model
from app.run_dir import own_evaluation
from app.serving.engine import ROUTES, Engine, RefusedError
from data import Example

log = logging.getLogger(__name__)
MAX_INPUTS = 64
"""Pairs of one request."""
MAX_TEXT = 20_000
"""Characters of one text."""
MAX_TOP_K = 1000
"""Answers to one pair."""


class Input(BaseModel):
    """An image and a text about it; one of them may be left out."""

    model_config = ConfigDict(extra="forbid")
    image: str | None = Field(None, description="The bytes of a JPEG, PNG, WEBP, BMP, GIF or TIFF file in base64.")
    text: Annotated[str, Field(max_length=MAX_TEXT)] | None = Field(None, description="A question, or a report.")


class PredictRequest(BaseModel):
    """One or many pairs. Those with the same image share one pass of the image encoder."""

    model_config = ConfigDict(extra="forbid")
    inputs: list[Input] = Field(min_length=1, max_length=MAX_INPUTS)
    top_k: int = Field(3, ge=1, le=MAX_TOP_K, description="How many of the most probable labels to give.")


class Answer(BaseModel):
    label: str
    probability: float


class ErrorBody(BaseModel):
    """What went wrong: a word for programs and a sentence for people."""

    code: str
    message: str


class ErrorReply(BaseModel):
    error: ErrorBody


class PredictionReply(BaseModel):
    """The answer to one pair, or, where several were asked, what is wrong with this one."""

    labels: list[str] | None = Field(None, description="The answer: one label, or all that apply.")
    confidence: float | None = Field(None, description="Calibrated probability that the answer is right.")
    sure: bool | None = Field(None, description="Whether that reaches the threshold chosen on validation rows.")
    answers: list[Answer] | None = Field(None, description="The most probable labels, best first.")
    error: ErrorBody | None = None


class PredictReply(BaseModel):
    predictions: list[PredictionReply]


class ModelReply(BaseModel):
    """What is being served."""

    name: str
    labels: list[str]
    label_type: str
    image_size: int
    max_text_tokens: int
    temperature: float
    sure_from: float = Field(description="Confidence from which an answer is sure; above 1 if none ever is.")
    parts: dict[str, str]
    metrics: dict[str, Any] | None = Field(description="Scores on held-out rows, with 95 % intervals.")


class Health(BaseModel):
    status: str


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": told}
    for status, told in {
        400: "Not the JSON or the form that was expected.",
        401: "No key, or a wrong one.",
        408: "The request came too slowly.",
        413: "The request is too large, in bytes or pixels.",
        415: "Neither JSON nor a form.",
        422: "Something in the request cannot be used.",
        429: "Too many requests are waiting.",
        500: "The model failed.",
        503: "The server is stopping or not ready.",
        504: "No answer in time.",
    }.items()
}
FORM = {
    "type": "object",
    "properties": {
        "image": {"type": "string", "format": "binary", "description": "An image file."},
        "text": {"type": "array", "items": {"type": "string"}, "description": "One text, or several about the image."},
        "top_k": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": 3},
    },
}


def build_api(engine: Engine, name: str, metrics: dict | None = None, has_key: bool = False) -> FastAPI:
    """The routes around an engine.

    Args:
        name: of the model.
        metrics: of the model on held-out rows, as ``GET /v1/model`` tells.
        has_key: whether the description says that a key is to be shown, which `Guard` checks.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(engine.warm_up)
        yield

    api = FastAPI(
        title="Image + text classification",
        description="Ask a trained classifier about images and texts.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    add_error_handlers(api)
    config, parts = engine.predictor.model.config, describe_model(engine.predictor.model)
    shows_key = [Depends(HTTPBearer(auto_error=False))] if has_key else []

    @api.post(
        "/v1/predict",
        dependencies=shows_key,
        response_model=PredictReply,
        response_model_exclude_none=True,
        responses=ERRORS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": schema_of(PredictRequest)},
                    "multipart/form-data": {"schema": FORM},
                },
            }
        },
    )
    async def predict(request: Request) -> PredictReply:
        """Answer one pair or several. Of several, a faulty one has an error in its place, and the others their answers;
        of one, the fault is the reply's status."""
        pairs, top_k = await read_request(request)
        prepared, found_probabilities = await engine.ask(pairs)
        if len(prepared) == 1 and not found_probabilities:
            raise RefusedError(422, *fault(prepared[0]))
        probabilities = iter(found_probabilities)
        replies = []
        for example in prepared:
            if not isinstance(example, Example):
                code, message = fault(example)
                replies.append(PredictionReply(error=ErrorBody(code=code, message=message)))
                continue
            found = engine.predictor.describe(next(probabilities)[None], top_k)[0]
            engine.pairs.inc()
            engine.unsure.inc(not found.is_sure)
            answers = [Answer.model_validate(answer) for answer in found.answers]
            replies.append(
                PredictionReply(labels=found.labels, confidence=found.confidence, sure=found.is_sure, answers=answers)
            )
        return PredictReply(predictions=replies)

    @api.get("/v1/model", dependencies=shows_key, responses={401: ERRORS[401]})
    async def model() -> ModelReply:
        """Labels, preprocessing, calibration and held-out metrics of the model."""
        return ModelReply(
            name=name,
            labels=engine.predictor.labels,
            label_type=config.label_type,
            image_size=config.image_size,
            max_text_tokens=engine.predictor.processor.tokenizer.model_max_length,
            temperature=config.temperature,
            sure_from=config.threshold,
            parts=parts,
            metrics=metrics,
        )

    @api.get("/healthz")
    async def healthz() -> Health:
        """Whether the process lives."""
        return Health(status="ok")

    @api.get("/readyz", responses={503: ERRORS[503]})
    async def readyz() -> Health:
        """Whether it answers: not before it is warm, nor while it is stopping."""
        if not engine.is_ready:
            raise RefusedError(503, "not_ready", "The server is starting or stopping.", 1)
        return Health(status="ready")

    @api.get(
        "/metrics",
        dependencies=shows_key,
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: ERRORS[401]},
    )
    async def prometheus() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(generate_latest(engine.registry), media_type=CONTENT_TYPE_LATEST)

    @api.api_route(
        "/v1/{rest:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False
    )
    async def nothing_here(request: Request) -> None:
        """Before the page, which would answer in a form of its own."""
        if allowed := ROUTES.get(request.url.path):
            raise HTTPException(405, f"Ask {request.url.path} with {allowed}.", {"Allow": allowed})
        raise HTTPException(404, f"There is no {request.url.path}; the routes are in /openapi.json.")

    return api


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model of one level of parts, each in its place."""
    schema = model.model_json_schema()
    parts = {f"#/$defs/{name}": part for name, part in schema.pop("$defs").items()}

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return parts[value["$ref"]] if "$ref" in value else {key: fill(item) for key, item in value.items()}
        return [fill(item) for item in value] if isinstance(value, list) else value

    return fill(schema)


async def read_request(request: Request) -> tuple[list[tuple[bytes | ValueError | None, str | None]], int]:
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
        return [(decode_base64(item.image), item.text) for item in asked.inputs], asked.top_k
    if kind == "multipart/form-data":
        return await read_form(request)
    raise RefusedError(415, "unsupported_media_type", "Send application/json or multipart/form-data.")


async def read_form(request: Request) -> tuple[list[tuple[bytes | ValueError | None, str | None]], int]:
    """One image with one text or several."""
    try:
        async with request.form(max_files=1, max_fields=MAX_INPUTS + 1, max_part_size=4 * MAX_TEXT) as form:
            image, texts, top_k = form.get("image"), form.getlist("text"), form.get("top_k", "3")
            if unknown := sorted(set(form) - {"image", "text", "top_k"}):
                raise RefusedError(422, "invalid_request", f"Unknown fields: {', '.join(unknown)[:100]}.")
            data = await image.read() if isinstance(image, UploadFile) else None
            if image is not None and data is None:
                raise RefusedError(422, "invalid_request", "The field image must be a file.")
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


def decode_base64(image: str | None) -> bytes | ValueError | None:
    """The bytes of an image; addresses are never fetched."""
    if image is None:
        return None
    if image.startswith("data:"):
        image = image.partition(",")[2]
    try:
        return base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        return ValueError("The image is not base64; send the bytes of a file so encoded, not an address or a path.")


def fault(error: Example | ValueError) -> tuple[str, str]:
    """Code and sentence of a faulty pair."""
    message = str(error)
    code = "unreadable_image" if "image" in message.lower() and "Give an image" not in message else "invalid_input"
    return code, message


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


def add_error_handlers(api: FastAPI) -> None:
    """All errors in one form, none with a stack trace."""

    def reply(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": {"code": code, "message": message}}, status, headers)

    @api.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        headers = None if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return reply(error.status, error.code, error.message, headers)

    @api.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return reply(error.status_code, "http_error", str(error.detail), error.headers)

    @api.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        log.exception("unexpected", exc_info=error)
        return reply(500, "internal", "Something went wrong; the server's log says what.")


def load_metrics(run_dir: Path) -> dict | None:
    """Held-out scores of a run folder, if it has some."""
    path = own_evaluation(run_dir) / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8"))["scores"] if path.is_file() else None
