"""The processor: pictures and texts → the tensors that the classifier takes."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from PIL import Image, ImageOps
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin, ViTImageProcessor
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, Unpack

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]
PICTURES = "Images must be decoded PIL images (data.decode_image), one or several"
TEXTS = "Texts must be strings, one or several, or None for a missing one"
TEXT_OPTIONS = ("padding", "truncation", "max_length", "pad_to_multiple_of", "padding_side", "add_special_tokens")
"""Keyword arguments that reach the tokenizer; others would give something else than one row of tokens a text."""
IMAGE_OPTIONS = tuple(name for name in ImagesKwargs.__annotations__ if name != "return_tensors")
"""Keyword arguments that reach the image processor."""


class ImageTextProcessor(ProcessorMixin):
    """Preprocessing of a saved classifier; training, evaluation and prediction all go through it.

    A text that is missing (``None``, NaN, ``pandas.NA``, or nothing but spaces) becomes a row without real tokens, for
    which the classifier uses its learned "no text" token.

    Args:
        image_processor: resizes to the model's square and normalises with ImageNet's mean and deviation, or with those
            of the pretrained image encoder.
        tokenizer: cuts texts at its ``model_max_length``.
    """

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer)

    def __call__(
        self,
        images: Image.Image | Sequence[Image.Image] | None = None,
        text: str | Sequence[str | None] | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Make one batch.

        Args:
            images: pictures of 8 bits a channel, or one: RGB, grey, palette, CMYK, or with alpha, laid on white.
            text: texts, or one; ``images`` or ``text`` may be left out.
            kwargs: as of other processors of transformers, also within ``text_kwargs`` and ``images_kwargs``:
                ``padding`` (by default True, to the longest text), ``truncation`` (True), ``max_length`` (the model's
                own), the rest of `TEXT_OPTIONS`, `IMAGE_OPTIONS`, and ``return_tensors`` ("pt").

        Shape:
            - images: I; returns ``pixel_values`` ``(I, 3, image_size, image_size)``
            - text: B; returns ``input_ids`` and ``attention_mask`` ``(B, L)``

        Raises:
            TypeError: something other than a ``PIL.Image`` (this processor opens no file and no address), a text that
                is no string, or an unknown keyword argument.
            ValueError: nothing at all, or a picture of more than 8 bits, whose range only the model knows.
        """
        options = self.options(kwargs)
        if images is None and text is None:
            raise ValueError("Give images, text or both; got neither.")
        data = {}
        if images is not None:
            pictures = [to_rgb(image) for image in as_list(images, Image.Image, PICTURES)]
            data["pixel_values"] = self.image_processor(pictures, **options["images_kwargs"])["pixel_values"]
        if text is not None:
            data |= self.tokenize(as_list(text, str, TEXTS), **options["text_kwargs"])
        return BatchFeature(data)

    def options(self, kwargs: Mapping) -> dict[str, dict]:
        """Keyword arguments for the tokenizer and for the image processor.

        Raises:
            TypeError: unknown ones, by name.
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
        """Tokens of texts, of which missing ones have none that is real."""
        is_there = [not is_missing(text) for text in texts]
        tokens = self.tokenizer(
            [text if there else self.tokenizer.pad_token for text, there in zip(texts, is_there, strict=True)],
            **options,
            return_attention_mask=True,
        )
        for row, there in enumerate(is_there):
            if not there:
                tokens["attention_mask"][row] = [0] * len(tokens["attention_mask"][row])
        tokens = tokens.convert_to_tensors(return_tensors)
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def is_missing(value: Any) -> bool:
    """Whether a value stands for no image or no text: ``None``, NaN, ``pandas.NA``, ``NaT``, or a blank string."""
    if isinstance(value, str):
        return not value.strip()
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def refuse_unknown(given: Iterable[str], known: Collection[str]) -> None:
    """Stop at keyword arguments that are not known.

    Raises:
        TypeError: names the first, the nearest known one, and all.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise TypeError(
                f"The processor got an unexpected keyword argument {name!r}. "
                + (f"Did you mean {near[0]!r}? " if near else "")
                + f"It takes {', '.join(known)}."
            )


def as_list(values: object, kind: type, wanted: str) -> list:
    """One value or several as a list; where strings are wanted, some may be missing.

    Raises:
        TypeError: a value of another type.
        ValueError: no value at all.
    """
    is_one = isinstance(values, kind | str | bytes | Mapping) or not isinstance(values, Iterable)
    found = [values] if is_one else list(values)  # type: ignore[call-overload]
    if not found:
        raise ValueError(f"{wanted}; got an empty {type(values).__name__}: leave out what there is none of.")
    for value in found:
        if not (isinstance(value, kind) or (kind is str and is_missing(value))):
            raise TypeError(f"{wanted}; got {type(value).__name__}.")
    return found


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of 8 bits a channel as RGB, upright, transparency on white: as `data.decode_image` makes it.

    Raises:
        ValueError: more than 8 bits a channel.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"A picture of mode {image.mode} has no fixed black and white. Convert it first, as those of the training: "
            "data.decode_image(image, value_range=model.config.value_range)."
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
) -> ImageTextProcessor:
    """The processor for a new classifier; texts are cut at ``max_text_length``, or where the tokenizer says."""
    tokenizer.model_max_length = min(tokenizer.model_max_length, max_text_length)
    image_processor = ViTImageProcessor(
        size={"height": image_size, "width": image_size}, image_mean=list(image_mean), image_std=list(image_std)
    )
    return ImageTextProcessor(image_processor, tokenizer)
