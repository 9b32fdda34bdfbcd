"""Where the model looked: what each word did at each place of the image, as numbers and as pictures."""

import math
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from app.explanation.fonts import font_families
from app.explanation.heatmaps import draw_matrix, lay_over
from data.errors import UserError
from models import ImageTextClassifier, ImageTextOutput, ImageTextProcessor

Heat = Literal["effect", "attention"]
"""What a heat-map of a word shows: the probability it brought, or the attention positions paid to it."""
TEXTS_AT_ONCE = 64
"""Texts in one pass when words are left out one by one."""


@dataclass
class Explanation:
    """One answer taken apart by image position and by word.

    Attributes:
        image: the decoded picture.
        words: W words of the text, in order; none where it has no token but special ones.
        answer_weights: ``(h, w)``, share of each image position in the probability of the top answer; they add up to 1.
        effects: ``(W, h, w)``, what each word brought to the top answer at each position: the probability that comes
            from the position, less that without the word. Over all positions they add up to the probability that is
            lost with the word; negative where the word speaks against the answer.
        attention: ``(H, W, h, w)`` for each level of the model, by the number of the image encoder's block:
            attention of each image position to each word by head. At a position the words and the special tokens add
            up to 1, or to less where positions attend to positions too. Empty where the fusion has no attention.
            Attention tells what was read, not what it did to the answer (Jain & Wallace 2019).
    """

    image: Image.Image
    words: list[str]
    answer_weights: np.ndarray
    effects: np.ndarray
    attention: dict[int, np.ndarray]

    def maps(self, of: Heat = "effect", head: int | None = None, level: int | None = None) -> np.ndarray:
        """One map a word ``(W, h, w)``.

        Args:
            of: the words' effects, or the attention to them.
            head: of the attention, from 0; the mean of all where not given.
            level: of the attention, a block of the image encoder; the last of the model's levels where not given.

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
        """The picture under the heat of each word, on one scale: dark is nothing, bright the most that any word has.

        Bright effects are at least as large as the answer's largest share, so that words which do little stay dark.
        """
        maps = self.maps(of, head, level)
        most = maps.max(initial=self.answer_weights.max() if of == "effect" else 0)
        return [lay_over(self.image, heat, most, opacity) for heat in maps]

    def figure(self, title: str = "", head: int | None = None, level: int | None = None, max_words: int = 12) -> Figure:
        """The picture; then for the answer and each word the overlay, the numbers under it, and the attention.

        Overlays of words share one scale; each matrix has its own, which its colour bar tells. Words after the first
        ``max_words`` are counted in the title.
        """
        words = self.words[:max_words]
        if len(self.words) > max_words:
            title += f"\n(the first {max_words} of {len(self.words)} words)"
        attention = None
        if self.attention or head is not None or level is not None:
            attention = self.maps("attention", head, level)
        with mpl.rc_context({"text.parse_math": False, "font.family": font_families(title, *words)}):
            return self.draw(title, words, attention, "mean of heads" if head is None else f"head {head}")

    def draw(self, title: str, words: list[str], attention: np.ndarray | None, of_heads: str) -> Figure:
        """The figure of some words, with matplotlib's settings of the moment."""
        heats = [self.answer_weights, *self.effects[: len(words)]]
        overlays = [lay_over(self.image, self.answer_weights, self.answer_weights.max()), *self.overlays()]
        rows = 2 if attention is None else 3
        figure = Figure(figsize=(1.6 * (len(words) + 2), 1.5 * rows + 0.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, len(words) + 2, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        axes[0, 0].imshow(self.image)
        axes[0, 0].set_title("image")
        notes = ["share of the answer;\neffect of each word", f"attention to\neach word,\n{of_heads}"]
        for ax, note in zip(axes[1:, 0], notes, strict=False):
            ax.text(0.5, 0.5, note, ha="center", va="center", fontsize=8, transform=ax.transAxes)
        for column, (name, heat) in enumerate(zip(["answer", *words], heats, strict=True), start=1):
            axes[0, column].imshow(overlays[column - 1])
            axes[0, column].set_title(name)
            most = np.abs(heat).max() or 1
            signed = {"cmap": "RdBu_r", "vmin": -most, "vmax": most}  # white is no effect
            draw_matrix(axes[1, column], heat, **(signed if column > 1 else {"cmap": "inferno"}))
            if attention is not None and column > 1:
                draw_matrix(axes[2, column], attention[column - 2], cmap="inferno")
        figure.suptitle(title, x=0.02, ha="left")
        return figure


@torch.inference_mode()
def explain(
    model: ImageTextClassifier, processor: ImageTextProcessor, image: Image.Image, text: str, answer: int | None = None
) -> Explanation:
    """Ask a decoded image about a text, and about the text without each of its words, in one pass of the image.

    Args:
        answer: number of the class that is explained; the most probable one where not given.
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
    """Probability of an answer that comes from each position ``(B, h, w)``."""
    assert output.logits is not None
    assert output.position_weights is not None
    probability = model.probabilities(output.logits)[:, answer, None, None]
    return output.position_weights[:, answer].float() * probability


def word_spans(processor: ImageTextProcessor, text: str) -> list[tuple[str, list[int]]]:
    """Words of a text with the numbers of their tokens; special tokens and words that were cut off are left out."""
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
