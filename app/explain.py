"""Where the model looked: attention of image positions to the words of a text, as numbers and as pictures."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from models import ImageTextClassifier, ImageTextProcessor


@dataclass
class Explanation:
    """Attention for one image and text.

    Attributes:
        image: the decoded picture.
        words: W words of the text, in order; none where the model's fusion has no attention.
        answer_weights: ``(h, w)``, share of each image position in the probability of the top answer; they add up to 1.
        attention: ``(H, W, h, w)`` for each level of the model, from fine to coarse: attention of each image position
            to each word by head. At a position the words and the special tokens add up to 1.
    """

    image: Image.Image
    words: list[str]
    answer_weights: np.ndarray
    attention: list[np.ndarray]

    def heat(self, word: int, head: int | None = None, level: int = -1) -> np.ndarray:
        """Attention to one word ``(h, w)``, of one head or the mean of all, at one level of the model."""
        attention = self.attention[level]
        return attention[:, word].mean(axis=0) if head is None else attention[head, word]

    def overlay(self, word: int, head: int | None = None, level: int = -1, opacity: float = 0.55) -> Image.Image:
        """The picture under the heat of one word: dark is no attention, bright the most that any word gets."""
        most = max(self.heat(other, head, level).max() for other in range(len(self.words)))
        return lay_over(self.image, self.heat(word, head, level), most, opacity)

    def overlays(self, head: int | None = None, level: int = -1) -> list[Image.Image]:
        """One overlay a word."""
        return [self.overlay(word, head, level) for word in range(len(self.words))]

    def figure(self, title: str = "", head: int | None = None, level: int = -1, max_words: int = 12) -> Figure:
        """The picture; then for the answer and for each word the overlay above the raw matrix with its colour bar.

        Overlays of words share one scale; each matrix has its own, which its colour bar tells. Words after the first
        ``max_words`` are counted in the title.
        """
        answer = lay_over(self.image, self.answer_weights, self.answer_weights.max())
        maps = [("answer", self.answer_weights, answer)]
        for number, word in enumerate(self.words[:max_words]):
            maps.append((word, self.heat(number, head, level), self.overlay(number, head, level)))
        if len(self.words) > max_words:
            title += f"\n(the first {max_words} of {len(self.words)} words)"
        figure = Figure(figsize=(1.6 * (len(maps) + 1), 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(maps) + 1, squeeze=False)
        axes[0, 0].imshow(self.image)
        axes[0, 0].set_title("image")
        for column, (name, heat, overlay) in enumerate(maps, start=1):
            axes[0, column].imshow(overlay)
            axes[0, column].set_title(name)
            matrix = axes[1, column].imshow(heat, cmap="inferno")
            figure.colorbar(matrix, ax=axes[1, column], shrink=0.7, format="%.2g")
        for ax in axes.flat:
            ax.set_axis_off()
        figure.suptitle(title, x=0.02, ha="left")
        return figure


def lay_over(image: Image.Image, heat: np.ndarray, most: float, opacity: float = 0.55) -> Image.Image:
    """Heat ``(h, w)`` over a picture, from 0 (dark) to ``most`` (bright)."""
    heat = heat / most if most > 0 else np.zeros_like(heat)
    smooth = Image.fromarray((heat * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    colored = Image.fromarray((colormaps["inferno"](np.asarray(smooth))[..., :3] * 255).astype(np.uint8))
    return Image.blend(image, colored, opacity)


@torch.inference_mode()
def explain(model: ImageTextClassifier, processor: ImageTextProcessor, image: Image.Image, text: str) -> Explanation:
    """Run the model once on a decoded image and a text, and read its attention back per word."""
    batch = processor([image], [text])
    output = model(**batch.to(model.device), output_attentions=True)
    answer = output.position_weights[0, output.logits[0].argmax()].cpu().numpy()
    if output.attentions is None:
        return Explanation(image, [], answer, [])
    spans = word_spans(processor, text)
    attention = []
    for weights in output.attentions:
        per_token = (weights.float() @ output.token_weights.float()[:, None]).squeeze(0)
        per_word = torch.stack([per_token[..., tokens].sum(dim=-1) for _, tokens in spans], dim=1)
        side = math.isqrt(per_word.shape[-1])
        attention.append(per_word.unflatten(-1, (side, side)).cpu().numpy())
    return Explanation(image, [word for word, _ in spans], answer, attention)


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
