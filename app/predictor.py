"""The one way to ask a trained model: used by the command line, the pages and other people's code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from app.explain import Explanation, explain
from app.hardware import choose_precision
from app.model_folder import load_any
from app.onnx_model import OnnxModel
from app.truth import confidence, give_answers
from data import BadImageError, Collate, Example, LabelFormat, decode_image
from data.cells import is_clean
from data.images import MAX_PIXELS, content_key
from data.messages import excerpt_path
from data.values import ValueRange
from models import ImageTextClassifier, ImageTextProcessor

ImageInput = str | Path | bytes | Image.Image | None


@dataclass(frozen=True)
class Prediction:
    """The answer to one pair.

    Attributes:
        labels: the most probable label, or all that apply where each does by itself.
        confidence: how probable it is that these, and no others, are right.
        is_sure: whether that reaches the probability chosen on the validation rows.
        answers: the most probable labels, ``{"label", "probability"}``, best first.
    """

    labels: list[str]
    confidence: float
    is_sure: bool
    answers: list[dict[str, str | float]]


class Predictor:
    """Answers about pairs of an image and a text.

    Args:
        model, processor: a trained classifier, or one exported to ONNX.
        device: where to compute; a GPU where there is one.
        precision: ``no`` is float32; ``auto`` is bf16 where the processor computes it natively, as in training.
        max_pixels: larger images are refused.
        max_text: longer texts, in characters, are refused; without it they are read as far as the model reads.
    """

    def __init__(
        self,
        model: ImageTextClassifier | OnnxModel,
        processor: ImageTextProcessor,
        device: str | torch.device | None = None,
        precision: str = "auto",
        max_pixels: int = MAX_PIXELS,
        max_text: int | None = None,
    ):
        self.max_text = max_text
        self.precision = choose_precision(precision)
        self.max_pixels = max_pixels
        on_gpu = torch.cuda.is_available() and not isinstance(model, OnnxModel)  # which chooses for itself
        self.device = torch.device(device or ("cuda" if on_gpu else "cpu"))
        self.model = model.to(self.device).eval()
        self.processor = processor
        self.labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.label_format = LabelFormat.of(model.config)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: str | torch.device | None = None, trust_custom_encoder: bool = False, **options
    ) -> Predictor:
        """Load from a run folder, a model folder, an ONNX export or a Hub id; `load_model` says what can go wrong.

        Args:
            options: precision and limits, as the class takes them.
        """
        return cls(*load_any(path, trust_custom_encoder), device, **options)

    def __call__(self, image: ImageInput, text: str | None, top_k: int = 3) -> list[dict[str, str | float]]:
        """The most probable labels of one pair, best first.

        Args:
            image: file, encoded bytes, picture, or ``None`` when there is none.
            text: ``None`` when there is none.
            top_k: how many labels.

        Returns:
            ``[{"label": …, "probability": …}, …]``; the probabilities of all labels add up to 1, unless each applies by
            itself.

        Raises:
            ValueError: an image that cannot be read, or neither image nor text.
        """
        return self.predict([(image, text)], top_k)[0].answers

    def predict(self, pairs: Sequence[tuple[ImageInput, str | None]], top_k: int = 3) -> list[Prediction]:
        """Answers for several pairs at once; equal images share one pass of VGG16."""
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}.")
        examples = []
        for example in self.prepare(pairs):
            if isinstance(example, ValueError):
                raise example
            examples.append(example)
        return self.describe(self.probabilities(examples), top_k) if examples else []

    def prepare(self, pairs: Iterable[tuple[ImageInput | ValueError, str | None]]) -> list[Example | ValueError]:
        """Each pair with its image decoded, one that several share once; in the place of a faulty pair its fault: an
        image that cannot be read (or a fault found before), a text that is none, or neither image nor text."""
        found: list[Example | ValueError] = []
        known: dict[str, Image.Image] = {}
        for number, (image, text) in enumerate(pairs):
            try:
                if isinstance(image, ValueError):
                    raise image
                key = image_name(image)
                example = self.prepare_one(known.get(key, image), text, number, key)
            except ValueError as error:
                found.append(error)
                continue
            found.append(example)
            if isinstance(example.image, Image.Image):
                known[key] = example.image
        return found

    def prepare_one(self, image: ImageInput, text: str | None, number: int, key: str) -> Example:
        text = (text or "").strip() or None
        if image is None and text is None:
            raise ValueError("Give an image, a text or both; a pair has neither.")
        if text is not None and self.max_text is not None and len(text) > self.max_text:
            raise ValueError(f"The text has {len(text):,} characters; {self.max_text:,} are allowed.")
        if text is not None and not is_clean(text):
            raise ValueError("The text has NUL characters or lone surrogates, which no tokenizer can read.")
        decoded = None if image is None else self.decode(image)
        return Example(number, decoded, text, label="", image_key=key)

    def decode(self, image: str | Path | bytes | Image.Image) -> Image.Image:
        """The decoded picture, read as in training; an error names the file."""
        return decode_named(image, self.max_pixels, self.model.config.value_range)

    @torch.inference_mode()
    def probabilities(self, examples: Sequence[Example]) -> np.ndarray:
        """Of each class for prepared pairs, in one batch ``(n, C)``."""
        batch = Collate(self.processor, self.model.config.label2id)(examples)
        del batch["labels"], batch["weights"], batch["rows"]
        with self.autocast():
            logits = self.model(**{name: tensor.to(self.device) for name, tensor in batch.items()}).logits
        assert logits is not None
        return self.model.probabilities(logits).cpu().numpy()

    def autocast(self) -> torch.autocast:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def describe(self, probabilities: np.ndarray, top_k: int) -> list[Prediction]:
        """What probabilities ``(n, C)`` say in words."""
        sure, chosen = (
            confidence(probabilities, self.label_format.type),
            give_answers(probabilities, self.label_format.type),
        )
        return [
            Prediction(
                [self.labels[c] for c in np.flatnonzero(chosen[row])],
                float(sure[row]),
                bool(sure[row] >= self.model.config.threshold),
                [{"label": self.labels[c], "probability": float(probabilities[row, c])} for c in best[:top_k]],
            )
            for row, best in enumerate(np.argsort(-probabilities, axis=1, kind="stable"))
        ]

    def explain(self, image: str | Path | bytes | Image.Image, text: str) -> Explanation:
        """Where it looked: one heat-map over the image for each word of the text."""
        if not (text or "").strip():
            raise ValueError("The text is empty: there is no word to show the attention of.")
        if isinstance(self.model, OnnxModel):
            raise ValueError("An ONNX model answers and does not explain: use the run folder it was exported from.")
        with self.autocast():
            return explain(self.model, self.processor, self.decode(image), text)


def image_name(image: ImageInput) -> str:
    """What makes images the same: the path, the bytes, or being the same object."""
    if isinstance(image, bytes):
        return content_key(image)
    return str(image) if isinstance(image, str | Path) else str(id(image))


def decode_named(
    image: str | Path | bytes | Image.Image, max_pixels: int, value_range: ValueRange = None
) -> Image.Image:
    """The decoded picture; an error names the file."""
    if not isinstance(image, str | Path | bytes | Image.Image):
        raise ValueError(f"An image is a file, its bytes or a PIL image, got {type(image).__name__}.")
    try:
        return decode_image(image, max_pixels, value_range=value_range)
    except BadImageError as error:
        name = f"The image {excerpt_path(str(image))}" if isinstance(image, str | Path) else "The image"
        raise BadImageError(f"{name} cannot be read: {error}") from error
