"""Why a model gave an answer: which places of the picture and which words it rests on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from PIL import Image
from torch import Tensor

from app.explanation.drawing import enlarged, evidence_layer, overlay
from app.explanation.evidence import PATH, default_method, evidence, over_frames
from app.explanation.options import MAX_MAPS, Method, check_number
from app.explanation.region import Region, decisive_region
from app.explanation.words import Words, effects_of_words, repeat_text, split_words
from data.errors import UserError
from models import ImageTextClassifier, ImageTextOutput, ImageTextProcessor
from models.onnx_classifier import OnnxModel
from models.video import run_frames

MATTERS = 0.01
"""Smallest change of the probability at which a word gets a map."""
WORD_PATH = (0.5,)
"""Points of integrated gradients for the maps of words, of those in `PATH`."""


@dataclass
class Explanation:
    """Attribution of one answer to the places of the picture and to the words.

    Attributes:
        image: the decoded image; ``None`` for a text alone.
        text: the text; empty for a picture alone.
        answer: label of the answer.
        probability: probability of the answer.
        method: attribution method of the maps, see `app.explanation.evidence.evidence`.
        evidence: what each place of the picture speaks for the answer (positive) or against it ``(h, w)``, in units of
            its log-odds; zero without an image.
        words: W words of the text, in order; empty without a text, or for one with special tokens only.
        effects: probability that the answer loses without each word ``(W,)``; negative for a word against it.
        word_evidence: number of a word → the evidence with the word minus that without it ``(h, w)``, for the words
            that do most. A word that is not here changes the probability by less than `MATTERS`, or less than these.
        region: the smallest region with half of the evidence for the answer, or more if hiding half does not matter,
            checked by hiding it; ``None`` without an image or without evidence for the answer.
        positions: share of each position of the last map in the probability of the answer ``(h', w')``; ``None`` for an
            ONNX model.
        attention: block of the image encoder → attention of each image position to each word, by head
            ``(H, W, h', w')``. Empty for a fusion without attention. It shows what was read, not its effect on the
            answer (Jain & Wallace 2019).
        context_effects: name of a further context → probability that the answer loses without it.
        contexts: name of a further context → its picture, or its value in words.
    """

    image: Image.Image | None
    text: str
    answer: str
    probability: float
    method: Method
    evidence: np.ndarray
    words: list[str]
    effects: np.ndarray
    word_evidence: dict[int, np.ndarray]
    region: Region | None
    positions: np.ndarray | None = None
    attention: dict[int, np.ndarray] = field(default_factory=dict)
    context_effects: dict[str, float] = field(default_factory=dict)
    contexts: dict[str, Image.Image | str] = field(default_factory=dict)

    @property
    def most(self) -> float:
        """The strongest evidence in any map: the one scale of the maps of words, so that weak ones look weak."""
        return float(max(np.abs(heat).max(initial=0) for heat in (self.evidence, *self.word_evidence.values())))

    @property
    def top_words(self) -> list[int]:
        """Numbers of the words that have a map, the strongest effect first."""
        return sorted(self.word_evidence, key=lambda word: -abs(self.effects[word]))

    @property
    def sentence(self) -> str:
        """What was checked for this picture, in one sentence, and one for each further context; empty without both."""
        checked = []
        if self.region is not None:
            checked.append(self.region.sentence(self.answer))
        elif self.image is not None:
            checked.append(f"No place in the picture speaks for “{self.answer}” ({self.probability:.0%}).")
        checked += [
            f"Without {name}, “{self.answer}” has {self.probability - lost:.0%} instead of {self.probability:.0%}."
            for name, lost in self.context_effects.items()
        ]
        return " ".join(checked)

    def layer(self, word: int | None, size: tuple[int, int]) -> Image.Image:
        """A transparent RGBA picture of the evidence, with the contour of the region for the answer.

        Args:
            word: number of a word; ``None`` for the answer.
            size: width and height in pixels.
        """
        heat = self.evidence if word is None else self.word_evidence.get(word, np.zeros_like(self.evidence))
        region = self.region.mask if word is None and self.region is not None else None
        return evidence_layer(heat, float(np.abs(heat).max()) if word is None else self.most, size, region)

    def overlay(self, word: int | None = None, side: int = 448) -> Image.Image:
        """The picture with the evidence for the answer, or the change that a word makes, in colour.

        Args:
            side: longer side in pixels.

        Raises:
            UserError: there is no image, or no picture has such a side.
        """
        check_number("side", side, 1)
        if self.image is None:
            raise UserError(
                "The explanation of an answer without an image has no image to draw on; words and effects have its "
                "words and their effects."
            )
        picture = enlarged(self.image, side)
        return overlay(picture, self.layer(word, picture.size))


def explain(
    model: ImageTextClassifier | OnnxModel,
    processor: ImageTextProcessor,
    image: Image.Image | None,
    text: str | None,
    answer: int | None = None,
    method: Method | None = None,
    depth: int | None = None,
    max_maps: int = MAX_MAPS,
    contexts: dict[str, Any] | None = None,
) -> Explanation:
    """Explain the answer to one pair.

    A word is left out by its attention mask, so the other words keep their positions.

    Args:
        image: a decoded image; ``None`` for a text alone.
        text: ``None`` for an image alone.
        answer: class number; ``None`` for the most probable class.
        method, depth: see `app.explanation.evidence.evidence`.
        max_maps: number of words that get a map, those that change the probability most.
        contexts: tensors of the further contexts of the pair, as `ImageTextClassifier.forward` takes them.

    Raises:
        UserError: a method that the model cannot be explained with, or a number below 0 of maps.
        ValueError: neither image nor text nor further contexts, or a model in training mode.
    """
    check_number("max_maps", max_maps, 0)
    image = None if image is None else processor.fit_image(image)
    method = method or default_method(model)
    device = next(model.parameters(), torch.zeros(0)).device
    inputs = pair_inputs(processor, image, text, contexts, device)
    if contexts:
        inputs["contexts"] = encode_pictures(model, inputs["contexts"])
    seen = encode_image(model, inputs)
    with torch.no_grad():
        output = model(**seen, **({} if isinstance(model, OnnxModel) else {"output_attentions": True}))
    probabilities = model.probabilities(output.logits)[0]
    chosen = int(probabilities.argmax()) if answer is None else answer
    probability = float(probabilities[chosen])
    words = split_words(processor, text) if text else Words([], [])
    effects = effects_of_words(model, seen, words, chosen, probability) if words.words else np.zeros(0)
    top = [int(word) for word in np.argsort(-np.abs(effects))[:max_maps] if abs(effects[word]) >= MATTERS]
    heat, by_word = picture_evidence(model, inputs, words, chosen, top, method, depth)
    others: dict[str, Any] = {
        name: inputs[name] for name in ("input_ids", "attention_mask", "contexts") if name in inputs
    }
    pixels = None if image is None else inputs["pixel_values"][0]
    region = None if pixels is None else decisive_region(model, pixels, others, chosen, probability, heat)
    return Explanation(
        image,
        text or "",
        model.config.id2label[chosen],
        probability,
        method,
        heat,
        words.words,
        effects,
        by_word,
        region,
        position_shares(output, chosen, model.config.frames),
        attention_to_words(model, output, words) if image and text else {},
        effects_of_contexts(model, seen, chosen, probability),
    )


def position_shares(output: ImageTextOutput, answer: int, frames: int) -> np.ndarray | None:
    """Share of each position in the probability of an answer ``(h, w)``; ``None`` if the model does not tell it."""
    if output.position_weights is None:
        return None
    return over_frames(output.position_weights[0, answer].float(), frames).cpu().numpy()


def pair_inputs(
    processor: ImageTextProcessor,
    image: Image.Image | None,
    text: str | None,
    contexts: dict[str, Any] | None,
    device: torch.device,
) -> dict[str, Any]:
    """The inputs of a model for one pair.

    Raises:
        ValueError: neither image nor text nor further contexts.
    """
    if image is None and not text and not contexts:
        raise ValueError("Give an image, a text or a further context; got none of them.")
    given = {"contexts": send_to_device(contexts, device)} if contexts else {}
    if image or text:
        given |= processor([image] if image else None, [text] if text else None).to(device)
    return given | pair_indices(image is not None, bool(text), device)


@torch.no_grad()
def effects_of_contexts(
    model: ImageTextClassifier | OnnxModel, seen: dict[str, Any], answer: int, probability: float
) -> dict[str, float]:
    """Probability that the answer loses without each further context that the pair has, by name."""
    contexts = seen.get("contexts", {})
    found = {}
    for name, inputs in contexts.items():
        if bool((inputs["index"] >= 0).any()):
            rest = {other: part for other, part in contexts.items() if other != name}
            logits = model(**seen | {"contexts": rest}).logits
            found[name] = probability - float(model.probabilities(logits)[0, answer])
    return found


def pair_indices(has_image: bool, has_text: bool, device: torch.device) -> dict[str, Tensor]:
    """Indices of one pair, -1 for a missing part."""
    given = {"image_index": has_image, "text_index": has_text}
    return {name: torch.tensor([0 if there else -1], device=device) for name, there in given.items()}


@torch.no_grad()
def encode_pictures(
    model: ImageTextClassifier | OnnxModel, contexts: dict[str, dict[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """Further contexts with the maps of second pictures in place of their pixels, as in `encode_image`."""
    if isinstance(model, OnnxModel):
        return contexts
    found = {}
    for name, inputs in contexts.items():
        found[name] = {key: value for key, value in inputs.items() if key != "pixel_values"}
        if "pixel_values" in inputs:
            found[name]["features"] = model.picture_maps(name, inputs["pixel_values"])
    return found


@torch.no_grad()
def encode_image(model: ImageTextClassifier | OnnxModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs with the map of the image in place of its pixels, so that it is encoded once for many texts.

    An ONNX model takes pixels only.
    """
    if isinstance(model, OnnxModel) or "pixel_values" not in inputs:
        return inputs
    maps = run_frames(model.image_encoder, inputs["pixel_values"], 0, model.levels[0], model.config.frames)
    return {name: value for name, value in inputs.items() if name != "pixel_values"} | {"image_features": maps}


def picture_evidence(
    model: ImageTextClassifier | OnnxModel,
    inputs: dict[str, Tensor],
    words: Words,
    answer: int,
    top: list[int],
    method: Method,
    depth: int | None,
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Evidence of the whole text ``(h, w)``, and number of a word → the change that the word makes ``(h, w)``.

    The maps of words are made at one point of the path, because each costs a backward pass a point.
    """
    chosen = torch.tensor([answer], device=inputs["image_index"].device)
    if not top or "pixel_values" not in inputs:
        return evidence(model, inputs, chosen, method, depth)[0].cpu().numpy(), {}
    whole = inputs["attention_mask"]
    pairs = repeat_text(inputs, torch.cat([whole, words.masks(whole)[top]]))
    maps = evidence(model, pairs, chosen.expand(1 + len(top)), method, depth, WORD_PATH)
    heat = maps[0]
    if method == "integrated_gradients":  # the other points, for the whole text alone
        others = [point for point in PATH if point not in WORD_PATH]
        heat = torch.lerp(heat, evidence(model, inputs, chosen, path=others)[0], len(others) / len(PATH))
    changes = (maps[0] - maps[1:]).cpu().numpy()
    return heat.cpu().numpy(), dict(zip(top, changes, strict=True))


def attention_to_words(model: ImageTextClassifier | OnnxModel, output: ImageTextOutput, words: Words) -> dict:
    """Block of the image encoder → attention of each position to each word ``(H, W, h, w)``."""
    found = {}
    for level, weights in zip(getattr(model, "levels", ()), output.attentions or (), strict=False):
        assert output.token_weights is not None
        weights = weights[..., : output.token_weights.shape[1]]  # the slots of the text come first
        per_token = (weights.float() @ output.token_weights.float()[:, None]).squeeze(0)
        per_word = [per_token[..., tokens].sum(dim=-1) for tokens in words.tokens]
        maps = torch.stack(per_word, dim=1) if per_word else per_token.new_zeros(len(per_token), 0, per_token.shape[1])
        side = math.isqrt(maps.shape[-1])
        found[level] = maps.unflatten(-1, (side, side)).float().cpu().numpy()
    return found
