"""Explanations of the rows that a report shows, each computed once."""

import sys
from dataclasses import replace

import numpy as np
from PIL import Image

from app.explanation.attribution import Explanation, explain
from app.explanation.drawing import enlarged
from app.explanation.options import MAX_MAPS
from data import Rows, decode_image
from data.collate import row_contexts
from data.contexts import show_cell
from models import ImageTextClassifier, ImageTextProcessor
from models.onnx_classifier import OnnxModel

SIDE = 448
"""Longer side of the pictures of an explanation, in pixels."""


class ExplainedRows:
    """Explanations of the answers to rows. Pictures are kept at `SIDE` pixels.

    Args:
        answers: class of the answer to each row ``(n,)``.
    """

    def __init__(
        self,
        model: ImageTextClassifier | OnnxModel,
        processor: ImageTextProcessor,
        rows: Rows,
        answers: np.ndarray,
    ):
        self.model, self.processor, self.rows, self.answers = model, processor, rows, answers
        self.found: dict[tuple[int, bool], Explanation] = {}

    def explain(self, index: int, by_word: bool) -> Explanation:
        """Explanation of one row; with ``by_word`` also a map of each word that does most, which takes longer."""
        found = self.found.get((index, True)) or self.found.get((index, by_word))
        if found is None:
            side = self.model.config.image_size
            image = None if self.rows.image_keys[index] is None else self.rows.decoded_image(index, side)
            text, answer = self.rows.texts[index], int(self.answers[index])
            maps = MAX_MAPS if by_word else 0
            contexts = row_contexts(self.model, self.processor, self.rows, index).get("contexts")
            found = explain(self.model, self.processor, image, text, answer, max_maps=maps, contexts=contexts)
            found = replace(found, image=image and enlarged(image, SIDE), contexts=self.show_contexts(index))
            self.found[index, by_word] = found
        return found

    def show_contexts(self, index: int) -> dict[str, Image.Image | str]:
        """The further contexts of a row by name, pictures at `SIDE` pixels and other values in words."""
        specs, shown = self.model.config.contexts or (), {}
        cells = self.rows.context_cells(index) if specs else {}
        for spec in specs:
            if (cell := cells.get(spec["name"])) is not None:
                value = show_cell(spec, cell)
                if spec["kind"] == "image":
                    value = enlarged(decode_image(value, sys.maxsize, value_range=self.rows.value_range), SIDE)
                shown[spec["name"]] = value
        return shown
