"""Ask a trained model; used by the command line, the server and Python code."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from PIL import Image

from app.explanation.options import MAX_MAPS, Method, check_number
from app.inference.load import load_any
from app.inference.pair_preparation import PairPreparation
from app.inference.python_contexts import contexts_by_name
from app.inference.python_inputs import ImageInput
from app.inference.python_rows import Pair, Table, is_table, read_pairs
from app.precision import choose_precision
from data import Example, InputCollate, LabelFormat
from data.contexts import show_cell
from data.errors import UserError
from data.images import MAX_PIXELS
from data.messages import enumerate_names
from data.settings import NamedContext
from models import ImageTextClassifier, ImageTextProcessor
from models.decisions import confidence, give_answers
from models.onnx_classifier import OnnxModel

if TYPE_CHECKING:
    from app.explanation.attribution import Explanation

HELD_PIXELS = 2**28
"""Pixels of different pictures that `Predictor.predict` holds in memory at a time: 0.8 GB of RGB."""
IMAGES_AT_ONCE = 32
"""Different images in one pass of the model."""
PAIRS_AT_ONCE = 1024
"""Pairs in one pass of the model."""


@dataclass(frozen=True)
class Prediction:
    """The answer to one pair.

    Attributes:
        labels: the most probable label; with multi-label, all that apply.
        confidence: probability that exactly these labels are right.
        is_sure: whether the confidence reaches the threshold chosen on the validation rows.
        answers: the most probable labels, ``{"label", "probability"}``, best first.
    """

    labels: list[str]
    confidence: float
    is_sure: bool
    answers: list[dict[str, str | float]]


class Predictor:
    """Predict labels for pairs of an image and a text.

    Args:
        model, processor: a trained classifier, or one exported to ONNX.
        device: a GPU by default if there is one.
        precision: ``no`` is float32; ``auto`` is bf16 where the processor computes it natively, as in training.
        max_pixels: larger images are refused.
        max_text: texts with more characters are refused; without it, long texts are truncated by the tokenizer.
        fetch_urls: fetch images from ``http(s)`` addresses, up to 50 MB and 20 seconds each.
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
        self.precision = choose_precision(precision)
        on_gpu = torch.cuda.is_available() and not isinstance(model, OnnxModel)  # onnxruntime chooses its own device
        self.device = torch.device(device or ("cuda" if on_gpu else "cpu"))
        self.model = model.to(self.device).eval()
        if self.precision == "no":
            self.model.float()  # of weights that were saved in half precision
        self.processor = processor
        self.preparation = PairPreparation(model.config, processor, max_pixels, max_text, fetch_urls)
        self.labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.label_format = LabelFormat.of(model.config)
        self.contexts = [NamedContext.of_spec(spec) for spec in model.config.contexts or ()]

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: str | torch.device | None = None, trust_custom_encoder: bool = False, **options
    ) -> Predictor:
        """Load a run folder, a model folder, an ONNX export or a Hub id; see `load_any` for the errors.

        Args:
            options: precision and limits of the class.
        """
        return cls(*load_any(path, trust_custom_encoder), device, **options)

    def __call__(
        self,
        image: ImageInput | Table,
        text: str | None = None,
        top_k: int = 3,
        contexts: Mapping[str, Any] | None = None,
    ) -> list[dict[str, str | float]] | list[list[dict[str, str | float]]]:
        """The most probable labels of one pair, or of each row of a table, best first.

        Args:
            image: a file, encoded bytes, an open file, a PIL image, a numpy array or a torch tensor (see
                `app.inference.python_inputs.read_image_input`); a video as a file, a folder of frames or an array
                ``(frames, H, W, 3)``, for a model of videos; or a table as for `predict`. ``None``, NaN and
                ``pandas.NA`` mean no image.
            text: ``None``, NaN and ``pandas.NA`` mean no text.
            top_k: number of labels.
            contexts: the further contexts of a model that has some, by name, see
                `app.inference.python_contexts.contexts_by_name`.

        Returns:
            ``[{"label": …, "probability": …}, …]``. The probabilities of all labels sum to 1, except for multi-label.

        Raises:
            UserError: an image that cannot be read, a text that is not a string, or neither image nor text.
        """
        if is_table(image):
            if text is not None or contexts is not None:
                raise UserError(
                    "The texts and contexts of a table come from its columns; call it with the table alone."
                )
            return [prediction.answers for prediction in self.predict(image, top_k)]
        return self.predict([(image, text, contexts)], top_k)[0].answers

    def predict(self, pairs: Iterable[Pair] | Iterable[Mapping] | Table, top_k: int = 3) -> list[Prediction]:
        """Predictions for several pairs, in their order.

        Equal images, by content, share one pass of the image encoder among up to `HELD_PIXELS` pixels of pictures.

        Args:
            pairs: an iterable of ``(image, text)`` or ``(image, text, contexts)``; or rows with the columns of the
                training, as dictionaries, a `pandas.DataFrame` or a `datasets.Dataset`; one of image and text may be
                missing. Paths are relative to the current folder.
            top_k: number of labels.

        Raises:
            UserError: a pair that cannot be answered, the message has the number of the first one; or an invalid
                ``top_k``.
        """
        check_number("top_k", top_k, 1)
        is_only = isinstance(pairs, Sequence) and len(pairs) == 1
        found: list[Prediction] = []
        pictures, block = self.preparation.pictures(), list[Example]()
        columns = (self.model.config.columns or {}) | ({} if self.model.config.has_text else {"text": ""})
        for number, (image, text, contexts) in enumerate(read_pairs(pairs, columns, self.contexts)):
            try:
                block.append(self.preparation.prepare_one(image, text, number, pictures, contexts))
            except UserError as error:
                raise error if is_only else UserError(f"Pair {number} (counted from 0): {error}") from error
            if pictures.num_pixels > HELD_PIXELS:
                found += self.predict_examples(block, top_k)
                pictures, block = self.preparation.pictures(), []
        return found + self.predict_examples(block, top_k)

    def predict_examples(self, examples: Sequence[Example], top_k: int = 3) -> list[Prediction]:
        """Predictions for prepared pairs."""
        return self.to_predictions(self.probabilities(examples), top_k)

    def prepare(self, pairs: Iterable[tuple], held_pixels: float = math.inf) -> list[Example | UserError]:
        """Check pairs and decode their images, see `app.inference.pair_preparation.PairPreparation.prepare`."""
        return self.preparation.prepare(pairs, held_pixels)

    def probabilities(self, examples: Sequence[Example]) -> np.ndarray:
        """Class probabilities of prepared pairs ``(n, C)``; the pairs of one image share one pass."""
        found = np.empty((len(examples), len(self.labels)), dtype=np.float32)
        for places in batch_by_image(examples):
            found[places] = self.batch_probabilities([examples[place] for place in places])
        return found

    @torch.inference_mode()
    def batch_probabilities(self, examples: Sequence[Example]) -> np.ndarray:
        """Class probabilities of prepared pairs ``(n, C)``, in one batch."""
        batch = InputCollate.of(self.processor, self.model.config)(examples)
        with self.autocast():
            logits = self.model(**send_to_device(batch, self.device)).logits
        assert logits is not None
        return self.model.probabilities(logits).cpu().numpy()

    def autocast(self) -> torch.autocast:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def to_predictions(self, probabilities: np.ndarray, top_k: int) -> list[Prediction]:
        """Labels, confidence and the most probable classes from probabilities ``(n, C)``."""
        decision = (self.label_format.type, self.model.config.label_thresholds)
        sure, chosen = confidence(probabilities, *decision), give_answers(probabilities, *decision)
        return [
            Prediction(
                [self.labels[c] for c in np.flatnonzero(chosen[row])],
                float(sure[row]),
                bool(sure[row] >= self.model.config.threshold),
                [{"label": self.labels[c], "probability": float(probabilities[row, c])} for c in best[:top_k]],
            )
            for row, best in enumerate(np.argsort(-probabilities, axis=1, kind="stable"))
        ]

    def explain(
        self,
        image: ImageInput = None,
        text: str | None = None,
        answer: str | None = None,
        method: Method | None = None,
        depth: int | None = None,
        max_maps: int = MAX_MAPS,
        contexts: Mapping[str, Any] | None = None,
    ) -> Explanation:
        """Explain the answer to one pair: which places of the picture and which words it rests on.

        Args:
            image, text: as for `predict`; one of them may be missing, and both beside a further context.
            answer: the label to explain, by default the most probable one.
            method, depth: see `app.explanation.evidence.evidence`.
            max_maps: number of words that get a map.
            contexts: as for a call of the predictor.

        Raises:
            UserError: neither image nor text, an unknown label, a method that the model cannot be explained with, or an
                invalid number.
        """
        further = contexts_by_name(contexts, self.contexts)
        example = self.preparation.prepare_one(image, text, 0, self.preparation.pictures(), further)
        if answer is not None and answer not in self.labels:
            near = difflib.get_close_matches(str(answer), self.labels, n=1)
            cure = f"Did you mean {near[0]!r}?" if near else f"Its labels are {enumerate_names(self.labels, 5)}."
            raise UserError(f"The model has no label {answer!r}. {cure}")
        number = None if answer is None else self.labels.index(answer)
        return self.explain_example(example, number, method, depth, max_maps)

    def explain_example(
        self,
        example: Example,
        answer: int | None = None,
        method: Method | None = None,
        depth: int | None = None,
        max_maps: int = MAX_MAPS,
    ) -> Explanation:
        """Explain the answer to a prepared pair.

        Args:
            answer: class number; ``None`` for the most probable class.
            method, depth, max_maps: see `explain`.
        """
        from app.explanation.attribution import explain  # slow to import, and an answer needs none of it

        picture = example.image if isinstance(example.image, Image.Image) else None
        contexts = InputCollate.of(self.processor, self.model.config).collate_contexts([example])
        with self.autocast():
            asked = self.model, self.processor, picture, example.text
            found = explain(*asked, answer, method, depth, max_maps, contexts)
        shown = {
            spec["name"]: show_cell(spec, cell)
            for spec in self.model.config.contexts or ()
            if (cell := example.contexts.get(spec["name"])) is not None
        }
        return replace(found, contexts=shown)


def batch_by_image(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Split examples into batches of up to `IMAGES_AT_ONCE` images and `PAIRS_AT_ONCE` pairs; yields their positions.

    The pairs of one image are in one batch, unless there are more of them than a batch may have."""
    by_image: dict[str | int, list[int]] = {}
    for place, example in enumerate(examples):
        by_image.setdefault(example.image_key or place, []).append(place)
    batch: list[int] = []
    number = 0
    parts = (
        places[start : start + PAIRS_AT_ONCE]
        for places in by_image.values()
        for start in range(0, len(places), PAIRS_AT_ONCE)
    )
    for places in parts:
        if number == IMAGES_AT_ONCE or (batch and len(batch) + len(places) > PAIRS_AT_ONCE):
            yield batch
            batch, number = [], 0
        batch, number = batch + places, number + 1
    if batch:
        yield batch
