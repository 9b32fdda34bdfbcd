"""Requests and replies of the API, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from app.evaluation.figures import Scores
from data.image_formats import FORMATS

MAX_INPUTS = 64
"""Maximum number of pairs in a request."""
MAX_TEXT = 20_000
"""Maximum length of a text, in characters."""
MAX_TOP_K = 1000
"""Maximum number of labels returned for a pair."""
MAX_EXPLAINED = 4
"""Maximum number of pairs in a request with explanations."""
Text = Annotated[str, Field(max_length=MAX_TEXT)]
TopK = Annotated[int, Field(ge=1, le=MAX_TOP_K, description="Number of most probable labels to return.")]
Explain = Annotated[
    bool,
    Field(description=f"Whether to explain the most probable answer of each pair, of {MAX_EXPLAINED} pairs at most."),
]
Maps = Annotated[
    Literal["png", "numbers"],
    Field(
        description="Form of the maps of an explanation: transparent PNG pictures in base64, to be scaled to the size "
        "of the picture and laid over it, or rows of numbers."
    ),
]


def check_number_explained(explain: bool, number: int) -> None:
    """Refuse explanations of too many pairs.

    Raises:
        PydanticCustomError: more than `MAX_EXPLAINED`.
    """
    if explain and number > MAX_EXPLAINED:
        message = f"explain is for {MAX_EXPLAINED} pairs a request at most, got {number}"
        raise PydanticCustomError("too_many_explained", message)


class Input(BaseModel):
    """An image and a text about it. Either may be omitted."""

    model_config = ConfigDict(extra="forbid")
    image: str | None = Field(
        None,
        description=f"Bytes of an image file ({', '.join(FORMATS)}) in base64, standard or URL-safe, optionally as a "
        "data: URI. Addresses are not fetched.",
    )
    text: Text | None = Field(None, description="For example a question or a report.")
    contexts: dict[str, Any] | None = Field(
        None,
        max_length=MAX_INPUTS,
        description="Further contexts of the model by name, see /v1/model; null for a missing one. A picture or a "
        "sound is the base64 of its file; features are a number, a word, {column: value}, a vector or a list of them.",
    )


class PredictRequest(BaseModel):
    """One or several pairs as JSON. Pairs with equal images share one pass of the image encoder."""

    model_config = ConfigDict(extra="forbid")
    inputs: list[Input] = Field(min_length=1, max_length=MAX_INPUTS)
    top_k: TopK = 3
    explain: Explain = False
    maps: Maps = "png"

    @model_validator(mode="after")
    def check_explain(self) -> PredictRequest:
        check_number_explained(self.explain, len(self.inputs))
        return self


class PredictForm(BaseModel):
    """One image with one or several texts as a form."""

    model_config = ConfigDict(extra="forbid")
    image: UploadFile | None = Field(None, description=f"An image file ({', '.join(FORMATS)}).")
    text: list[Text] = Field([], max_length=MAX_INPUTS, description="One or several texts about the image.")
    top_k: TopK = 3
    explain: Explain = False
    maps: Maps = "png"

    @model_validator(mode="after")
    def check_explain(self) -> PredictForm:
        check_number_explained(self.explain, len(self.text))
        return self

    @field_validator("image", mode="before")
    @classmethod
    def check_is_file(cls, image: Any) -> Any:
        """Refuse a path or an address with a message that shows how to send a file."""
        if isinstance(image, str):
            raise PydanticCustomError("file_type", "expected a file, for example curl -F image=@picture.png")
        return image


class Answer(BaseModel):
    """A label and its probability."""

    label: str
    probability: float


class ErrorBody(BaseModel):
    """An error."""

    code: str = Field(description="Error code for programs.")
    message: str = Field(description="Explanation for people.")


class ErrorReply(BaseModel):
    """Reply to a request that is refused or fails."""

    error: ErrorBody


EvidenceMap = Annotated[
    str | list[list[float]],
    Field(
        description="A PNG in base64, or rows of numbers in the units of the method over the whole picture; positive "
        "speaks for the answer, negative against it."
    ),
]


class WordReply(BaseModel):
    """What a word does to the answer."""

    word: str
    effect: float = Field(description="Probability that the answer loses without the word; negative if it gains.")
    map: EvidenceMap | None = Field(
        None, description="Where in the picture the word changes the evidence, for the words that change it most."
    )


class RegionReply(BaseModel):
    """A region with much of the evidence, checked by hiding it and asking again."""

    share: float = Field(description="Share of the picture.")
    whole: float = Field(description="Probability of the answer.")
    hidden: float = Field(description="Probability of the answer without the region.")
    elsewhere: float = Field(description="Mean probability of the answer with as many other pixels hidden.")
    matters: bool = Field(description="Whether hiding the region matters clearly more than hiding as much elsewhere.")


class ExplanationReply(BaseModel):
    """Why the most probable answer was given."""

    answer: str
    probability: float
    method: str = Field(description="Attribution method of the maps.")
    sentence: str = Field(description="What was checked for this picture, for people; empty without an image.")
    region: RegionReply | None = None
    map: EvidenceMap | None = Field(None, description="Evidence for the answer; absent without an image.")
    words: list[WordReply]


class PredictionReply(BaseModel):
    """Prediction for one pair; in a request with several pairs, possibly an error."""

    labels: list[str] | None = Field(None, description="The predicted label; for multi-label models all that apply.")
    confidence: float | None = Field(None, description="Calibrated probability that the prediction is correct.")
    sure: bool | None = Field(None, description="Whether the confidence reaches the threshold of the model.")
    answers: list[Answer] | None = Field(None, description="The most probable labels, in descending order.")
    explanation: ExplanationReply | None = Field(None, description="If the request has explain.")
    error: ErrorBody | None = None


class PredictReply(BaseModel):
    """One prediction per pair, in the order of the request."""

    predictions: list[PredictionReply]


class ContextReply(BaseModel):
    """A context of the model beside image and text."""

    name: str
    kind: str = Field(description="text, image, audio or features.")
    columns: list[str] = Field(description="Columns of features that have several.")


class ModelReply(BaseModel):
    """Description of the served model."""

    name: str
    labels: list[str]
    label_type: str
    image_size: int
    max_text_tokens: int
    temperature: float
    sure_from: float = Field(
        description="Confidence threshold, chosen on validation rows, above which a prediction is sure. A value above "
        "1 means that no prediction is sure."
    )
    label_thresholds: list[float] | None = Field(
        description="For multi-label models, the probability from which each label is answered, in the order of "
        "labels; null is 0.5 for all, or one label per answer."
    )
    parts: dict[str, str]
    contexts: list[ContextReply] = Field([], description="Contexts that requests give beside image and text.")
    metrics: dict[str, Scores] | None = Field(description="Scores on held-out rows, with 95 % confidence intervals.")


class Health(BaseModel):
    """State of the server."""

    status: str


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": description}
    for status, description in {
        400: "The body is not valid JSON or not a valid form.",
        401: "The key is missing or wrong.",
        408: "The request arrived too slowly.",
        413: "The request has too many bytes or pixels.",
        415: "The body is neither JSON nor a form.",
        422: "A value in the request is invalid.",
        429: "The queue is full.",
        500: "The model failed.",
        503: "The server is busy, stopping or not ready.",
        504: "There was no answer in time.",
    }.items()
}
"""Documentation of the errors, by HTTP status."""
