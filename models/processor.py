"""The processor: convert images and texts to the tensors that the classifier takes."""

import difflib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin, ViTImageProcessor
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, Unpack

from data.contact_sheet import contact_sheet, cut_sheet
from models.letterbox import letterbox
from models.video import join_sheets

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]
IMAGES = "images must be one or several decoded PIL images (see data.decode_image)"
TEXTS = "text must be one or several strings, with None for a missing text"
TEXT_OPTIONS = ("padding", "truncation", "max_length", "pad_to_multiple_of", "padding_side", "add_special_tokens")
"""Keyword arguments passed to the tokenizer. Others would not give one row of tokens per text."""
IMAGE_OPTIONS = tuple(name for name in ImagesKwargs.__annotations__ if name != "return_tensors")
"""Keyword arguments passed to the image processor."""


class ImageTextProcessor(ProcessorMixin):
    """Preprocessing of a classifier, saved with it and used in training, evaluation and prediction.

    A missing text (``None``, NaN, ``pandas.NA`` or only whitespace) becomes a row without real tokens, for which the
    classifier uses its learned "no text" token.

    Args:
        image_processor: resizes to the model's square and normalizes with ImageNet's mean and standard deviation, or
            with those of the pretrained image encoder.
        tokenizer: truncates texts at its ``model_max_length``.
        fit: how pictures that are not square become square: ``squeeze``, or ``letterbox``, which pads them with the
            mean colour.
        frames: number of frames of a video, whose sheet is resized and normalized frame by frame; 1 for pictures.
    """

    def __init__(self, image_processor=None, tokenizer=None, fit: str = "squeeze", frames: int = 1, **kwargs):
        super().__init__(image_processor, tokenizer)
        self.fit = fit
        self.frames = frames

    def __call__(
        self,
        images: Image.Image | Sequence[Image.Image] | None = None,
        text: str | Sequence[str | None] | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Prepare one batch.

        Args:
            images: one or several images with 8 bits per channel: RGB, grey, palette, CMYK, or with alpha, which is
                composited on white.
            text: one or several texts. Either ``images`` or ``text`` may be omitted.
            kwargs: options as in other transformers processors, also within ``text_kwargs`` and ``images_kwargs``:
                ``padding`` (default True, to the longest text), ``truncation`` (default True), ``max_length`` (default:
                that of the model), the rest of `TEXT_OPTIONS`, `IMAGE_OPTIONS`, and ``return_tensors`` (default "pt").

        Shape:
            - images: I; returns ``pixel_values`` ``(I, 3, image_size, image_size)``, sheets of n² frames n times as
              high and wide
            - text: B; returns ``input_ids`` and ``attention_mask`` ``(B, L)``

        Raises:
            TypeError: an image that is not a ``PIL.Image`` (the processor opens no file and no URL), a text that is not
                a string, or an unknown keyword argument.
            ValueError: neither images nor texts, or an image of more than 8 bits, whose value range only the model's
                configuration knows.
        """
        options = self.options(kwargs)
        if images is None and text is None:
            raise ValueError("Give images, text or both; got neither.")
        data = {}
        if images is not None:
            rgb = [self.fit_image(to_rgb(image)) for image in as_list(images, Image.Image, IMAGES)]
            frames = [frame for image in rgb for frame in cut_sheet(image, self.frames)] if self.frames > 1 else rgb
            data["pixel_values"] = self.image_processor(frames, **options["images_kwargs"])["pixel_values"]
            if self.frames > 1:
                data["pixel_values"] = join_sheets(torch.as_tensor(np.stack(data["pixel_values"])), self.frames)
        if text is not None:
            data |= self.tokenize(as_list(text, str, TEXTS), **options["text_kwargs"])
        return BatchFeature(data)

    def fit_image(self, image: Image.Image) -> Image.Image:
        """An RGB picture as it is resized to the model's square: padded, if ``fit`` is ``letterbox``."""
        if self.fit != "letterbox":
            return image
        frames = [letterbox(frame, self.image_processor.image_mean) for frame in cut_sheet(image, self.frames)]
        return contact_sheet(frames)

    def options(self, kwargs: Mapping) -> dict[str, dict]:
        """Split keyword arguments into those of the tokenizer and those of the image processor.

        Raises:
            TypeError: an unknown keyword argument.
        """
        text, images = (dict.fromkeys((*names, "return_tensors")) for names in (TEXT_OPTIONS, IMAGE_OPTIONS))
        groups = {"text_kwargs": text, "images_kwargs": images, "common_kwargs": text | images}
        refuse_unknown(kwargs, {**groups, **text, **images})
        for group, names in groups.items():
            refuse_unknown(kwargs.get(group, {}), names)
        merged = self._merge_kwargs(ProcessingKwargs, **kwargs)
        defaults = {"text_kwargs": {"padding": True, "truncation": True, "return_tensors": "pt"}}
        defaults["images_kwargs"] = {"return_tensors": "pt"}
        return {group: found | merged[group] for group, found in defaults.items()}

    def tokenize(self, texts: list, return_tensors: str | None, **options) -> dict:
        """Tokenize texts; the attention mask of a missing text is zero everywhere."""
        missing = [is_missing(text) for text in texts]
        tokens = self.tokenizer(
            [self.tokenizer.pad_token if absent else text for text, absent in zip(texts, missing, strict=True)],
            **options,
            return_attention_mask=True,
        )
        for row, absent in enumerate(missing):
            if absent:
                tokens["attention_mask"][row] = [0] * len(tokens["attention_mask"][row])
        tokens = tokens.convert_to_tensors(return_tensors)
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def token_ids(self, text: str) -> list[int]:
        """All tokens of a text, with special tokens and without truncation."""
        return self.tokenizer(text, verbose=False)["input_ids"]

    def count_tokens(self, texts: Iterable[str | None]) -> np.ndarray:
        """Number of tokens of each text ``(n,)``, as in `token_ids`; 0 for a missing text."""
        count = lru_cache(maxsize=4096)(lambda text: len(self.token_ids(text)))
        return np.array([count(text) if text else 0 for text in texts], dtype=np.int64)


def is_missing(value: Any) -> bool:
    """Whether a value represents a missing image or text: ``None``, NaN, ``pandas.NA``, ``NaT`` or a blank string."""
    if value is None or isinstance(value, str):
        return value is None or not value.strip()
    if isinstance(value, int | float):
        return value != value
    if isinstance(value, bytes | os.PathLike | Image.Image | np.ndarray | torch.Tensor | Mapping):
        return False
    import pandas as pd  # slow to import, and values of other types are rare

    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def refuse_unknown(given: Iterable[str], known: Collection[str]) -> None:
    """Refuse unknown keyword arguments.

    Raises:
        TypeError: gives the first unknown name, the closest known name, and all known names.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise TypeError(
                f"The processor got an unexpected keyword argument {name!r}. "
                + (f"Did you mean {near[0]!r}? " if near else "")
                + f"Valid arguments: {', '.join(known)}."
            )


def as_list(values: object, kind: type, expected: str) -> list:
    """Convert one or several values to a list. Strings may be missing values.

    Args:
        kind: type of a value.
        expected: what is expected, the start of a message.

    Raises:
        TypeError: a value of another type.
        ValueError: no values.
    """
    is_one = isinstance(values, kind | str | bytes | Mapping) or not isinstance(values, Iterable)
    found = [values] if is_one else list(values)  # type: ignore[call-overload]
    if not found:
        raise ValueError(f"{expected}; got an empty {type(values).__name__}. Omit the argument instead.")
    for value in found:
        if not (isinstance(value, kind) or (kind is str and is_missing(value))):
            raise TypeError(f"{expected}; got {type(value).__name__}.")
    return found


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB as `data.decode_image` does: EXIF rotation applied, transparency composited on white.

    Raises:
        ValueError: more than 8 bits per channel.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"An image of mode {image.mode} has no defined values of black and white. Convert it first, as in "
            "training: data.decode_image(image, value_range=model.config.value_range)."
        )
    image = ImageOps.exif_transpose(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def build_processor(
    tokenizer: PreTrainedTokenizerBase,
    image_size: int,
    max_text_length: int,
    image_mean: Sequence[float] = IMAGENET_MEAN,
    image_std: Sequence[float] = IMAGENET_STD,
    fit: str = "squeeze",
    frames: int = 1,
) -> ImageTextProcessor:
    """Build the processor of a new classifier.

    Args:
        tokenizer: its ``model_max_length`` is lowered to ``max_text_length``.
        image_size: height and width in pixels.
        max_text_length: maximum length of a text in tokens.
        image_mean, image_std: mean and standard deviation per channel, for pixels in [0, 1].
        fit, frames: see `ImageTextProcessor`.
    """
    tokenizer.model_max_length = min(tokenizer.model_max_length, max_text_length)
    return ImageTextProcessor(build_image_processor(image_size, image_mean, image_std), tokenizer, fit, frames)


def build_image_processor(
    image_size: int, image_mean: Sequence[float] = IMAGENET_MEAN, image_std: Sequence[float] = IMAGENET_STD
) -> ViTImageProcessor:
    """Build the part that resizes and normalizes images; for the arguments see `build_processor`."""
    size = {"height": image_size, "width": image_size}
    return ViTImageProcessor(size=size, image_mean=list(image_mean), image_std=list(image_std))
