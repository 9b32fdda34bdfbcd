"""Attribution of an answer to image positions and words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image

from app.explanation.heatmaps import explanation_figure, overlay_heatmap
from data.errors import UserError
from models import ImageTextClassifier, ImageTextOutput, ImageTextProcessor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Heat = Literal["effect", "attention"]
"""Heat-map of a word: its effect on the probability of the answer, or the attention of positions to it."""
TEXTS_AT_ONCE = 64
"""Number of masked texts in one pass of the model."""


@dataclass
class Explanation:
    """Attribution of one answer to image positions and words.

    Attributes:
        image: the decoded image.
        words: W words of the text, in order; empty if it has special tokens only.
        answer_weights: share of each image position in the probability of the answer ``(h, w)``; the sum is 1.
        effects: effect of each word at each position ``(W, h, w)``: the probability that comes from the position,
            minus the same without the word. The sum over the positions is the probability that is lost without the
            word (leave-one-out); it is negative for a word against the answer.
        attention: block of the image encoder → attention of each image position to each word, by head
            ``(H, W, h, w)``. At a position the words and the special tokens sum to 1, or to less if positions also
            attend to positions. Empty for a fusion without attention. Attention shows what was read, not its effect
            on the answer (Jain & Wallace 2019).
    """

    image: Image.Image
    words: list[str]
    answer_weights: np.ndarray
    effects: np.ndarray
    attention: dict[int, np.ndarray]

    def maps(self, of: Heat = "effect", head: int | None = None, level: int | None = None) -> np.ndarray:
        """One map for each word ``(W, h, w)``.

        Args:
            of: the effects of the words, or the attention to them.
            head: attention head, from 0; ``None`` for the mean of all heads.
            level: block of the image encoder; ``None`` for the last level of the model.

        Raises:
            UserError: no such head or level.
        """
        if of == "effect":
            return self.effects
        level = max(self.attention, default=None) if level is None else level
        if level is None or level not in self.attention:
            there = f"levels {', '.join(map(str, self.attention))}" if self.attention else "no level"
            raise UserError(f"This model has attention at {there}; there is none at {level or 'any'}.")
        attention = self.attention[level]
        if head is not None and not 0 <= head < len(attention):
            raise UserError(f"This model has heads 0 to {len(attention) - 1}; there is no head {head}.")
        return attention.mean(axis=0) if head is None else attention[head]

    def overlays(
        self, of: Heat = "effect", head: int | None = None, level: int | None = None, opacity: float = 0.55
    ) -> list[Image.Image]:
        """The image under the heat-map of each word, from dark (0) to bright (the maximum of all words).

        The maximum of effects is at least the largest of the answer weights, so words of little effect stay dark.
        """
        maps = self.maps(of, head, level)
        most = maps.max(initial=self.answer_weights.max() if of == "effect" else 0)
        return [overlay_heatmap(self.image, heat, most, opacity) for heat in maps]

    def figure(self, title: str = "", head: int | None = None, level: int | None = None, max_words: int = 12) -> Figure:
        """The image, and for the answer and each word the overlay, the effects and the attention.

        Args:
            head, level: see `maps`.
            max_words: number of words that are drawn.
        """
        attention = None
        if self.attention or head is not None or level is not None:
            attention = self.maps("attention", head, level)
        note = "mean of heads" if head is None else f"head {head}"
        return explanation_figure(self, attention, title, note, max_words)


@torch.inference_mode()
def explain(
    model: ImageTextClassifier, processor: ImageTextProcessor, image: Image.Image, text: str, answer: int | None = None
) -> Explanation:
    """Explain an answer: compare it with the answers to the text without each of its words.

    The image is encoded once. A word is left out by its attention mask, so the other words keep their positions.

    Args:
        image: a decoded image.
        answer: class number; ``None`` for the most probable class.
    """
    batch = processor([image], [text]).to(model.device)
    output = model(**batch, output_attentions=True)
    answer = int(output.logits[0].argmax()) if answer is None else answer
    spans = word_spans(processor, text)
    masks = batch["attention_mask"].repeat(len(spans), 1)
    for row, (_, tokens) in enumerate(spans):
        masks[row, tokens] = 0
    whole = answer_map(model, output, answer)
    without = [
        answer_map(
            model,
            model(
                pixel_values=batch["pixel_values"],
                input_ids=batch["input_ids"].expand(len(mask), -1),
                attention_mask=mask,
                image_index=torch.zeros(len(mask), dtype=torch.long, device=model.device),
                output_attentions=True,
            ),
            answer,
        )
        for mask in masks.split(TEXTS_AT_ONCE)
        if len(mask)
    ]
    attention = {}
    for level, weights in zip(model.levels, output.attentions or [], strict=False):
        per_token = (weights.float() @ output.token_weights.float()[:, None]).squeeze(0)
        per_word = [per_token[..., tokens].sum(dim=-1) for _, tokens in spans]
        maps = torch.stack(per_word, dim=1) if per_word else per_token.new_zeros(len(per_token), 0, per_token.shape[1])
        side = math.isqrt(maps.shape[-1])
        attention[level] = maps.unflatten(-1, (side, side)).float().cpu().numpy()
    return Explanation(
        image,
        [word for word, _ in spans],
        output.position_weights[0, answer].float().cpu().numpy(),
        (whole - torch.cat([whole[:0], *without])).cpu().numpy(),
        attention,
    )


def answer_map(model: ImageTextClassifier, output: ImageTextOutput, answer: int) -> torch.Tensor:
    """Part of the probability of an answer that comes from each position ``(B, h, w)``."""
    assert output.logits is not None
    assert output.position_weights is not None
    probability = model.probabilities(output.logits)[:, answer, None, None]
    return output.position_weights[:, answer].float() * probability


def word_spans(processor: ImageTextProcessor, text: str) -> list[tuple[str, list[int]]]:
    """Words of a text with the indices of their tokens, without special tokens and truncated words."""
    encoding = processor.tokenizer(text, truncation=True)
    if not encoding.is_fast:
        tokens = processor.tokenizer.convert_ids_to_tokens(encoding["input_ids"])
        special = set(processor.tokenizer.all_special_tokens)
        return [(token, [number]) for number, token in enumerate(tokens) if token not in special]
    spans: dict[int, list[int]] = {}
    for number, word in enumerate(encoding.word_ids()):
        if word is not None:
            spans.setdefault(word, []).append(number)
    return [(text[slice(*encoding.word_to_chars(word))], tokens) for word, tokens in spans.items()]
