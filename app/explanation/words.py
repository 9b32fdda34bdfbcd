"""The words of a text, and what each does to an answer."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models import ImageTextClassifier, ImageTextProcessor
from models.onnx_classifier import OnnxModel

TEXTS_AT_ONCE = 64
"""Number of masked texts in one pass of the model."""


@dataclass(frozen=True)
class Words:
    """The words of a text.

    Attributes:
        words: the words, without special tokens and truncated words.
        tokens: indices of the tokens of each word.
    """

    words: list[str]
    tokens: list[list[int]]

    def masks(self, attention_mask: Tensor) -> Tensor:
        """Attention masks of the text without each of its words ``(W, L)``; the other words keep their positions.

        Args:
            attention_mask: mask of the whole text ``(1, L)``.
        """
        masks = attention_mask.repeat(len(self.words), 1)
        for row, tokens in enumerate(self.tokens):
            masks[row, tokens] = 0
        return masks


def split_words(processor: ImageTextProcessor, text: str) -> Words:
    """Words of a text with the indices of their tokens.

    A fast tokenizer tells the words. If it does not split the text into words first, as Llama's and Gemma's, these are
    the parts between spaces. The words of another tokenizer are its tokens.
    """
    encoding = processor.tokenizer(text, truncation=True)
    if not encoding.is_fast:
        tokens = processor.tokenizer.convert_ids_to_tokens(encoding["input_ids"])
        special = set(processor.tokenizer.all_special_tokens)
        places = [place for place, token in enumerate(tokens) if token not in special]
        return Words([tokens[place] for place in places], [[place] for place in places])
    spans: dict[int, list[int]] = {}
    for place, word in enumerate(encoding.word_ids()):
        if word is not None:
            spans.setdefault(word, []).append(place)
    words = [text[slice(*encoding.word_to_chars(word))] for word in spans]
    if any(len(word.split()) > 1 for word in words):
        places = [place for span in spans.values() for place in span]
        return split_at_spaces(text, {place: encoding.token_to_chars(place) for place in places})
    return Words(words, list(spans.values()))


def split_at_spaces(text: str, tokens: dict[int, tuple[int, int]]) -> Words:
    """Parts of a text between spaces, with the indices of their tokens. A token belongs to the part it begins in.

    Args:
        tokens: index of each token → its first character in the text and the one after its last.
    """
    starts = [part.start() for part in re.finditer(r"\S+", text)]
    spans: dict[int, list[int]] = {}
    for place, (start, end) in tokens.items():
        spaces = len(text[start:end]) - len(text[start:end].lstrip())
        spans.setdefault(bisect_right(starts, start + spaces), []).append(place)
    words = [text[tokens[places[0]][0] : tokens[places[-1]][1]].strip() for places in spans.values()]
    return Words(words, list(spans.values()))


@torch.no_grad()
def effects_of_words(
    model: ImageTextClassifier | OnnxModel,
    inputs: dict[str, Tensor],
    words: Words,
    answer: int,
    probability: float,
) -> np.ndarray:
    """Probability that the answer loses without each word ``(W,)`` (leave-one-out); negative for a word against it.

    The picture is encoded once for up to `TEXTS_AT_ONCE` words.

    Args:
        words: at least one word.
        inputs: the pair: ``pixel_values`` or ``image_features (1, …)`` if it has an image, ``input_ids`` and
            ``attention_mask (1, L)``.
        probability: that of the answer for the whole text.
    """
    if not words.words:
        return np.zeros(0, dtype=np.float32)
    found = []
    for masks in words.masks(inputs["attention_mask"]).split(TEXTS_AT_ONCE):
        logits = model(**repeat_text(inputs, masks)).logits
        found.append(model.probabilities(logits)[:, answer].cpu().numpy())
    return probability - np.concatenate(found)


def repeat_text(inputs: dict[str, Tensor], masks: Tensor) -> dict[str, Tensor]:
    """Inputs for pairs of the one image, if there is one, with the one text under each of the masks ``(B, L)``."""
    rows = torch.arange(len(masks), device=masks.device)
    has_image = "pixel_values" in inputs or "image_features" in inputs
    text = {"input_ids": inputs["input_ids"].expand(len(masks), -1), "attention_mask": masks, "text_index": rows}
    return inputs | text | {"image_index": torch.full_like(rows, 0 if has_image else -1)}
