"""The API for programs: documented routes, errors as JSON with a code and a sentence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from app.serving.engine import ROUTES, Engine, RefusedError
from app.serving.request_body import fault, read_request
from app.serving.schemas import (
    ERRORS,
    FORM,
    Answer,
    ErrorBody,
    Health,
    ModelReply,
    PredictionReply,
    PredictReply,
    PredictRequest,
    schema_of,
)
from app.training.run_folder import own_evaluation
from data import Example
from models.description import describe_model


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
    key = [Depends(HTTPBearer(auto_error=False))] if has_key else []
    add_predict(api, engine, key)
    add_model(api, engine, key, name, metrics)
    add_state(api, engine, key)

    @api.api_route(
        "/v1/{rest:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False
    )
    async def nothing_here(rest: str) -> None:
        """Before the page, which would answer in a form of its own."""
        path = f"/v1/{rest}"
        if allowed := ROUTES.get(path):
            raise HTTPException(405, f"Ask {path} with {allowed}.", {"Allow": allowed})
        raise HTTPException(404, f"There is no {path}; the routes are in /openapi.json.")

    return api


def add_predict(api: FastAPI, engine: Engine, key: Sequence[Any]) -> None:
    """The route that answers; ``key``: what it depends on where a key is to be shown."""

    @api.post(
        "/v1/predict",
        dependencies=key,
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


def add_model(api: FastAPI, engine: Engine, key: Sequence[Any], name: str, metrics: dict | None) -> None:
    """The route that says what is served."""
    config, parts = engine.predictor.model.config, describe_model(engine.predictor.model)

    @api.get("/v1/model", dependencies=key, responses={401: ERRORS[401]})
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


def add_state(api: FastAPI, engine: Engine, key: Sequence[Any]) -> None:
    """The routes that say how the server is."""

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
        dependencies=key,
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: ERRORS[401]},
    )
    async def prometheus() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(generate_latest(engine.registry), media_type=CONTENT_TYPE_LATEST)


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
    async def unexpected(_: Request, error: Exception) -> JSONResponse:  # uvicorn logs it
        return reply(500, "internal", "Something went wrong; the server's log says what.")


def load_metrics(run_dir: Path) -> dict | None:
    """Held-out scores of a run folder, if it has some."""
    path = own_evaluation(run_dir) / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8"))["scores"] if path.is_file() else None
