"""The HTTP API: typed, documented routes; every error is JSON with a code and a message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from app.evaluation.figures import Scores
from app.reporting.metrics_file import read_scores
from app.serving.api_errors import add_error_handlers
from app.serving.engine import ROUTES, Engine, Pair
from app.serving.explanation_reply import explain_all
from app.serving.refusal import RefusedError, retry_after
from app.serving.request_body import (
    FORM,
    JSON,
    MAX_FORM_FIELD,
    FormRoute,
    JsonRoute,
    form_pairs,
    json_pairs,
    pair_error,
)
from app.serving.schemas import (
    ERRORS,
    MAX_INPUTS,
    Answer,
    ContextReply,
    ErrorBody,
    ExplanationReply,
    Health,
    ModelReply,
    PredictForm,
    PredictionReply,
    PredictReply,
    PredictRequest,
)
from app.training.run_folder import own_evaluation
from data import Example
from models.description import describe_model


def build_api(engine: Engine, name: str, metrics: dict[str, Scores] | None = None, has_key: bool = False) -> FastAPI:
    """Build the API around an engine.

    Args:
        name: name of the model.
        metrics: scores of the model on held-out rows, for ``GET /v1/model``.
        has_key: whether to document the key, which `Guard` checks.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(engine.warm_up)
        yield

    api = FastAPI(
        title="Image + text classification",
        description="Classify images and texts with a trained model.",
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
    async def unknown_route(rest: str) -> None:
        """Answer before the page does, whose errors have another form."""
        path = f"/v1/{rest}"
        if allowed := ROUTES.get(path):
            raise HTTPException(405, f"{path} accepts {allowed} only.", {"Allow": allowed})
        raise HTTPException(404, f"{path} does not exist. /openapi.json lists the routes.")

    return api


def add_predict(api: FastAPI, engine: Engine, key: Sequence[Any]) -> None:
    """Add the route for predictions, typed for JSON and for forms.

    Args:
        key: dependencies that document the key.
    """
    options: dict[str, Any] = {
        "methods": ["POST"],
        "dependencies": key,
        "response_model_exclude_none": True,
        "responses": ERRORS,
    }

    async def predict_form(form: Annotated[PredictForm, Form(media_type=FORM)]) -> PredictReply:
        return await answer(engine, await form_pairs(form, engine.predictor.contexts), form)

    async def predict(body: PredictRequest) -> PredictReply:
        """Predict the labels of one or several pairs of image and text.

        In a request with several pairs, an invalid pair gets an error in its place and the others are answered. In a
        request with a single pair, its error is the status of the reply.
        """
        return await answer(engine, json_pairs(body, engine.predictor.contexts), body)

    api.router.add_api_route(
        "/v1/predict",
        predict_form,
        route_class_override=FormRoute,
        form_limits={"max_files": 1, "max_fields": MAX_INPUTS + 3, "max_part_size": MAX_FORM_FIELD},
        **options,
    )
    # OpenAPI has one operation for both: that of the last route, which therefore refers to the form as well.
    form_schema = {"content": {FORM: {"schema": {"$ref": f"#/components/schemas/{PredictForm.__name__}"}}}}
    api.router.add_api_route(
        "/v1/predict",
        predict,
        route_class_override=JsonRoute,
        openapi_extra={"requestBody": form_schema},
        **options,
    )

    @api.post("/v1/predict", include_in_schema=False)
    async def unsupported_media_type() -> None:
        raise RefusedError(415, "unsupported_media_type", f"Send {JSON} or {FORM}.")


async def answer(engine: Engine, pairs: Sequence[Pair], options: PredictRequest | PredictForm) -> PredictReply:
    """Predict the pairs of one request, and explain the answers if the request says so.

    Raises:
        RefusedError: see `Engine.ask` and `Engine.explain`; or the only pair is invalid.
    """
    prepared, valid_probabilities = await engine.ask(pairs)
    if len(prepared) == 1 and not isinstance(prepared[0], Example):
        raise RefusedError(422, *pair_error(prepared[0]))
    probabilities = iter(valid_probabilities)
    explanations: Iterator[ExplanationReply] = iter(())
    examples = [example for example in prepared if isinstance(example, Example)]
    if options.explain and examples:
        explanations = iter(await engine.explain(partial(explain_all, engine.predictor, options.maps), examples))
    replies = []
    for example in prepared:
        if not isinstance(example, Example):
            code, message = pair_error(example)
            replies.append(PredictionReply(error=ErrorBody(code=code, message=message)))
            continue
        found = engine.predictor.to_predictions(next(probabilities)[None], options.top_k)[0]
        engine.count_answer(found.is_sure)
        replies.append(
            PredictionReply(
                labels=found.labels,
                confidence=found.confidence,
                sure=found.is_sure,
                answers=[Answer.model_validate(label) for label in found.answers],
                explanation=next(explanations, None),
            )
        )
    return PredictReply(predictions=replies)


def add_model(api: FastAPI, engine: Engine, key: Sequence[Any], name: str, metrics: dict[str, Scores] | None) -> None:
    """Add the route that describes the model."""
    config, parts = engine.predictor.model.config, describe_model(engine.predictor.model)
    contexts = [
        ContextReply(name=context.name, kind=context.kind, columns=list(context.columns))
        for context in engine.predictor.contexts
    ]

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
            label_thresholds=config.label_thresholds,
            parts=parts,
            contexts=contexts,
            metrics=metrics,
        )


def add_state(api: FastAPI, engine: Engine, key: Sequence[Any]) -> None:
    """Add the routes for health checks and metrics."""

    @api.get("/healthz")
    async def healthz() -> Health:
        """Liveness: the process runs."""
        return Health(status="ok")

    @api.get("/readyz", responses={503: ERRORS[503]})
    async def readyz() -> Health:
        """Readiness: the server answers requests. It is not ready while it warms up and while it stops."""
        if not engine.is_ready:
            raise RefusedError(503, "not_ready", "The server is starting or stopping.", retry_after(1))
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


def load_metrics(run_dir: Path) -> dict[str, Scores] | None:
    """Scores of a run folder on held-out rows, or ``None`` if there are none."""
    path = own_evaluation(run_dir) / "metrics.json"
    return read_scores(path) if path.is_file() else None
