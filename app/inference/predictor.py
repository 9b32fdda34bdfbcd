"""The one way to ask a trained model: used by the command line, the pages and other people's code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from app.explanation.attribution import Explanation, explain
from app.inference.load import load_any
from app.inference.python_inputs import ImageInput, Pictures, read_text_input
from app.inference.python_rows import Pair, Table, is_table, read_pairs
from app.precision import choose_precision
from data import Example, InputCollate, LabelFormat, decode_image
from data.cells import is_clean
from data.errors import UserError
from data.images import MAX_PIXELS
from models import ImageTextClassifier, ImageTextProcessor
from models.decisions import confidence, give_answers
from models.onnx_classifier import OnnxModel

HELD_PIXELS = 2**28
"""Pixels of different pictures that `Predictor.predict` holds at a time, 0.8 GB of RGB."""
IMAGES_AT_ONCE = 32
"""Different images in one pass of the model."""
PAIRS_AT_ONCE = 1024
"""Pairs in one pass of the model."""


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
        fetch_urls: permission to fetch images from ``http(s)`` addresses, up to 50 MB and 20 seconds each.
    """

    def __init__(
        self,
        model: ImageTextClassifier | OnnxModel,
        processor: ImageTextProcessor,
        device: str | torch.device | None = None,
        precision: str = "auto",
        max_pixels: int = MAX_PIXELS,
        max_text: int | None = None,
        fetch_urls: bool = False,
    ):
        self.fetch_urls = fetch_urls
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

    def __call__(
        self, image: ImageInput | Table, text: str | None = None, top_k: int = 3
    ) -> list[dict[str, str | float]] | list[list[dict[str, str | float]]]:
        """The most probable labels of one pair, best first; of a table, those of each row.

        Args:
            image: what `app.inference.python_inputs.read_image_input` takes: a file, encoded bytes, an open file, a
                PIL picture, a numpy
                array, a torch tensor; or a `pandas.DataFrame` or `datasets.Dataset`, as `predict` takes it. ``None``,
                NaN and ``pandas.NA`` are no image.
            text: ``None``, NaN and ``pandas.NA`` are no text.
            top_k: how many labels.

        Returns:
            ``[{"label": …, "probability": …}, …]``; the probabilities of all labels add up to 1, unless each applies by
            itself.

        Raises:
            UserError: an image that cannot be read, a text that is none, or neither image nor text.
        """
        if is_table(image):
            if text is not None:
                raise UserError("The texts of a table come from its columns; call it without a text.")
            return [prediction.answers for prediction in self.predict(image, top_k)]
        return self.predict([(image, text)], top_k)[0].answers

    def predict(self, pairs: Iterable[Pair] | Iterable[Mapping] | Table, top_k: int = 3) -> list[Prediction]:
        """Answers for several pairs, in their order.

        Equal images share one pass of the image encoder, by their content, wherever they stand among pictures of up to
        `HELD_PIXELS` pixels together.

        Args:
            pairs: ``(image, text)`` each, from a list or made on the fly by a generator; or rows with the columns that
                the model was trained on, as dictionaries, a `pandas.DataFrame` or a `datasets.Dataset`, of which image
                or text may be missing. Paths are relative to the current folder.
            top_k: how many labels.

        Raises:
            UserError: the first pair that cannot be answered, by its number.
        """
        if top_k < 1:
            raise UserError(f"top_k must be at least 1, got {top_k}.")
        is_only = isinstance(pairs, Sequence) and len(pairs) == 1
        found: list[Prediction] = []
        pictures, block = self.pictures(), list[Example]()
        for number, (image, text) in enumerate(read_pairs(pairs, self.model.config.columns)):
            try:
                block.append(self.prepare_one(image, text, number, pictures))
            except UserError as error:
                raise error if is_only else UserError(f"Pair {number} (counted from 0): {error}") from error
            if pictures.num_pixels > HELD_PIXELS:
                found += self.describe(self.probabilities(block), top_k)
                pictures, block = self.pictures(), []
        return found + self.describe(self.probabilities(block), top_k)

    def prepare(self, pairs: Iterable[tuple[ImageInput | UserError, str | None]]) -> list[Example | UserError]:
        """Each pair with its image decoded, one that several share once; in the place of a faulty pair its fault: an
        image that cannot be read (or a fault found before), a text that is none, or neither image nor text."""
        found: list[Example | UserError] = []
        pictures = self.pictures()
        for number, (image, text) in enumerate(pairs):
            try:
                if isinstance(image, UserError):
                    raise image
                found.append(self.prepare_one(image, text, number, pictures))
            except UserError as error:
                found.append(error)
        return found

    def pictures(self) -> Pictures:
        """A new, empty collection of pictures, decoded as in training, with the predictor's limits."""
        reading = {"max_pixels": self.max_pixels, "value_range": self.model.config.value_range}
        return Pictures(partial(decode_image, **reading), self.fetch_urls)

    def prepare_one(self, image: ImageInput, text: str | None, number: int, pictures: Pictures) -> Example:
        """One pair, checked, its image decoded.

        Raises:
            UserError: what is wrong with it.
        """
        text = read_text_input(text)
        if text is not None and self.max_text is not None and len(text) > self.max_text:
            raise UserError(f"The text has {len(text):,} characters; {self.max_text:,} are allowed.")
        if text is not None and not is_clean(text):
            raise UserError("The text has NUL characters or lone surrogates, which no tokenizer can read.")
        key, picture = pictures.read(image) or (None, None)
        if picture is None and text is None:
            raise UserError("Give an image, a text or both; a pair has neither.")
        return Example(number, picture, text, image_key=key)

    def probabilities(self, examples: Sequence[Example]) -> np.ndarray:
        """Of each class for prepared pairs ``(n, C)``, the pairs of one image in one pass."""
        found = np.empty((len(examples), len(self.labels)), dtype=np.float32)
        for places in batch_by_image(examples):
            found[places] = self.batch_probabilities([examples[place] for place in places])
        return found

    @torch.inference_mode()
    def batch_probabilities(self, examples: Sequence[Example]) -> np.ndarray:
        """Of each class for prepared pairs, in one batch ``(n, C)``."""
        batch = InputCollate(self.processor)(examples)
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

    def explain(self, image: ImageInput, text: str) -> Explanation:
        """Where it looked: one heat-map over the image for each word of the text."""
        words = read_text_input(text)
        if words is None:
            raise UserError("The text is empty: there is no word to show the attention of.")
        if isinstance(self.model, OnnxModel):
            raise UserError("An ONNX model answers and does not explain: use the run folder it was exported from.")
        found = self.pictures().read(image)
        if found is None:
            raise UserError("There is no image to show the attention in.")
        with self.autocast():
            return explain(self.model, self.processor, found[1], words)


def batch_by_image(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Places of examples in batches of up to `IMAGES_AT_ONCE` images and `PAIRS_AT_ONCE` pairs; those of one image are
    together, in order."""
    by_image: dict[str | int, list[int]] = {}
    for place, example in enumerate(examples):
        by_image.setdefault(example.image_key or place, []).append(place)
    batch: list[int] = []
    number = 0
    for places in by_image.values():
        if number == IMAGES_AT_ONCE or (batch and len(batch) + len(places) > PAIRS_AT_ONCE):
            yield batch
            batch, number = [], 0
        batch, number = batch + places, number + 1
    if batch:
        yield batch
