"""Pairs of an image and a text, and their further contexts, checked and decoded as in training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from app.inference.python_inputs import ImageInput, Pictures, read_text_input
from data import Example, decode_image
from data.audio import CHECKED_RATE, decode_sound
from data.cells import is_clean
from data.context_features import encode_features, refuse_unknown
from data.contexts import ContextCell
from data.errors import UserError
from models import ImageTextConfig, ImageTextProcessor

FAULTS = {"audio": (" is ", "."), "vectors": (" has ", "."), "columns": (" has ", ".")}
"""Kind of a context → what stands between its name and a fault, and after the fault; a colon and nothing for others."""


@dataclass
class PairPreparation:
    """Checks the inputs of a model and decodes its pictures.

    Args:
        config, processor: of the model.
        max_pixels: larger images are refused.
        max_text: texts with more characters are refused; ``None`` refuses none.
        fetch_urls: fetch images from ``http(s)`` addresses.
    """

    config: ImageTextConfig
    processor: ImageTextProcessor
    max_pixels: int
    max_text: int | None
    fetch_urls: bool

    def prepare(self, pairs: Iterable[tuple], held_pixels: float = math.inf) -> list[Example | UserError]:
        """Check pairs and decode their images, equal ones once.

        Args:
            pairs: images and texts, and optionally further contexts by name; an error in place of an image or of the
                contexts is passed through.
            held_pixels: no further pair is prepared once the pictures have more pixels than this. An iterator then has
                the other pairs left.

        Returns:
            an example for each pair, or its error: an image that cannot be read, a text that is not a string, or
            neither image nor text.
        """
        found: list[Example | UserError] = []
        pictures = self.pictures()
        for number, (image, text, *further) in enumerate(pairs):
            contexts = further[0] if further else {}
            try:
                for part in (image, contexts):
                    if isinstance(part, UserError):
                        raise part
                found.append(self.prepare_one(image, text, number, pictures, contexts))
            except UserError as error:
                found.append(error)
            if pictures.num_pixels > held_pixels:
                break
        return found

    def pictures(self) -> Pictures:
        """An empty collection of pictures, decoded and fitted within the limits."""
        config = self.config
        decode = partial(
            decode_image,
            max_pixels=self.max_pixels,
            value_range=config.value_range,
            frames=config.frames,
            side=config.image_size,
        )
        return Pictures(lambda image: self.processor.fit_image(decode(image)), self.fetch_urls, config.frames)

    def prepare_one(
        self,
        image: ImageInput,
        text: str | None,
        number: int,
        pictures: Pictures,
        contexts: Mapping[str, ContextCell | None] | None = None,
    ) -> Example:
        """Check one pair and decode its images.

        Raises:
            UserError: an image that cannot be read, an invalid or too long text, or neither image nor text.
        """
        text = self.check_text(read_text_input(text))
        key, picture = pictures.read(image) or (None, None)
        if text is not None and not self.config.has_text:
            raise UserError("The model has no text: its answers rest on the image and on its contexts.")
        prepared = {name: self.prepare_context(name, cell, pictures) for name, cell in (contexts or {}).items()}
        if picture is None and text is None and not any(prepared.values()):
            raise UserError("Give an image, a text or both; a pair has neither.")
        return Example(number, picture, text, image_key=key, contexts=prepared)

    def check_text(self, text: str | None) -> str | None:
        """Refuse a text that is too long or that a tokenizer cannot read."""
        if text is not None and self.max_text is not None and len(text) > self.max_text:
            raise UserError(f"The text has {len(text):,} characters; {self.max_text:,} are allowed.")
        if text is not None and not is_clean(text):
            raise UserError("The text has NUL characters or lone surrogates, which a tokenizer cannot read.")
        return text

    def prepare_context(self, name: str, cell: ContextCell | None, pictures: Pictures) -> ContextCell | None:
        """Check the value of a further context, and decode a picture.

        Raises:
            UserError: a context that the model does not have, or a value unlike those of its training.
        """
        specs = {spec["name"]: spec for spec in self.config.contexts or ()}
        if name not in specs:
            known = f"its contexts are {', '.join(specs)}" if specs else "it has none beside the text"
            raise UserError(f"The model has no context {name!r}; {known}.")
        if cell is None:
            return None
        spec = specs[name]
        with naming_context(name, spec["kind"]):
            if spec["kind"] == "image":
                found = pictures.read(cell.value)
                return None if found is None else ContextCell(found[1], found[0])
            if spec["kind"] == "text":
                self.check_text(cell.value)
            elif spec["kind"] == "audio":
                decode_sound(cell.value, CHECKED_RATE, spec["seconds"])
            else:
                encode_features(spec, cell.value)
                refuse_unknown(spec, cell.value)
        return cell


@contextmanager
def naming_context(name: str, kind: str) -> Iterator[None]:
    """Let errors of a value name the context that it is for.

    Raises:
        UserError: of the type of the error.
    """
    between, after = FAULTS.get(kind, (": ", ""))
    try:
        yield
    except UserError as error:
        raise type(error)(f"The context {name}{between}{error}{after}") from error
