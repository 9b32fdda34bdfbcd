"""A pair of an image and a text, with its label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from data.contexts import ContextCell
    from data.image_cells import StoredImage


@dataclass(frozen=True)
class Example:
    """A pair of an image and a text.

    Attributes:
        row: its number in the source, from 0.
        image: ``None`` if missing.
        text: ``None`` if missing.
        label: as written by `LabelFormat.parse`; ``None`` if there is nothing to train on or to score.
        image_key: equal for equal images.
        weight: of the row in the loss and in metrics.
        contexts: name → the row's value for each further context; ``None`` if missing.
    """

    row: int
    image: StoredImage | Image.Image
    text: str | None
    label: str | None = None
    image_key: str | None = None
    weight: float = 1.0
    contexts: Mapping[str, ContextCell | None] = field(default_factory=dict)
