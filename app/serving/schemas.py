"""What the API takes and gives, as its description says."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MAX_INPUTS = 64
"""Pairs of one request."""
MAX_TEXT = 20_000
"""Characters of one text."""
MAX_TOP_K = 1000
"""Answers to one pair."""


class Input(BaseModel):
    """An image and a text about it; one of them may be left out."""

    model_config = ConfigDict(extra="forbid")
    image: str | None = Field(
        None,
        description="The bytes of a JPEG, PNG, WEBP, BMP, GIF or TIFF file in base64, of either alphabet, or in a "
        "data: URI. No address is fetched.",
    )
    text: Annotated[str, Field(max_length=MAX_TEXT)] | None = Field(None, description="A question, or a report.")


class PredictRequest(BaseModel):
    """One or many pairs. Those with the same image share one pass of the image encoder."""

    model_config = ConfigDict(extra="forbid")
    inputs: list[Input] = Field(min_length=1, max_length=MAX_INPUTS)
    top_k: int = Field(3, ge=1, le=MAX_TOP_K, description="How many of the most probable labels to give.")


class Answer(BaseModel):
    """A label, and how probable it is."""

    label: str
    probability: float


class ErrorBody(BaseModel):
    """What went wrong: a word for programs and a sentence for people."""

    code: str
    message: str


class ErrorReply(BaseModel):
    """In the place of an answer."""

    error: ErrorBody


class PredictionReply(BaseModel):
    """The answer to one pair, or, where several were asked, what is wrong with this one."""

    labels: list[str] | None = Field(None, description="The answer: one label, or all that apply.")
    confidence: float | None = Field(None, description="Calibrated probability that the answer is right.")
    sure: bool | None = Field(None, description="Whether that reaches the threshold chosen on validation rows.")
    answers: list[Answer] | None = Field(None, description="The most probable labels, best first.")
    error: ErrorBody | None = None


class PredictReply(BaseModel):
    """An answer to each pair, in the order asked."""

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
    """How the server is."""

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


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model of one level of parts, each in its place."""
    schema = model.model_json_schema()
    parts = {f"#/$defs/{name}": part for name, part in schema.pop("$defs").items()}

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return parts[value["$ref"]] if "$ref" in value else {key: fill(item) for key, item in value.items()}
        return [fill(item) for item in value] if isinstance(value, list) else value

    return fill(schema)
