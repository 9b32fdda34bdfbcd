"""Hide a painted region of the last picture and ask again; both answers side by side, as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from app.explanation.drawing import enlarged
from app.explanation.hiding import hide
from app.reporting.html_report import to_data_uri
from app.serving.engine import Engine
from app.serving.ui.answer_view import bars, render
from app.serving.ui.region_editor import SIDE, painted_pixels
from data import Example
from data.contexts import ContextCell
from data.errors import UserError

FILL_SIDE = 1600
"""Longer side at which hidden pixels are filled; larger pictures get an enlarged filling."""
SHOWN_SIDE = 420
"""Longer side of the pictures of the comparison, in pixels."""
NUM_ANSWERS = 3


@dataclass(frozen=True)
class Question:
    """The last question of a session.

    Attributes:
        path: its picture in the upload folder.
        text: its text.
        picture: the picture at the size of the editor.
        contexts: its further contexts by name, prepared.
    """

    path: str | None
    text: str | None
    picture: Image.Image | None
    contexts: Mapping[str, ContextCell | None] = field(default_factory=dict)


def as_question(example: Example, path: str | None) -> Question:
    """The question of a prepared pair."""
    picture = enlarged(example.image, SIDE) if isinstance(example.image, Image.Image) else None
    return Question(path, example.text, picture, example.contexts)


async def hide_and_ask(engine: Engine, question: Question | None, layers: list[str]) -> str:
    """Ask the last question again, with and without the painted region, as HTML.

    Raises:
        UserError: no question about a picture, nothing painted, or a picture that is gone.
        RefusedError: see `Engine.ask` and `Engine.explain`.
    """
    if question is None or question.path is None:
        raise UserError("Ask a question about a picture first.")
    (example,), before = await engine.ask([(question.path, question.text, question.contexts)])
    if isinstance(example, UserError):
        raise UserError("The picture of the last answer is no longer stored. Press Answer to ask again.")
    changed, share = await engine.explain(partial(hide_painted, layers), [example])
    if isinstance(changed, UserError):
        raise changed
    (hidden,), after = await engine.ask([(as_file(changed), question.text, question.contexts)])
    if isinstance(hidden, UserError):
        raise hidden
    predictor = engine.predictor
    answer = int(before[0].argmax())
    columns = [
        ("Whole picture", shown(example.image), bars(predictor.to_predictions(before[0][None], NUM_ANSWERS)[0])),
        ("Without the painted region", shown(changed), bars(predictor.to_predictions(after[0][None], NUM_ANSWERS)[0])),
    ]
    sentence = compare(predictor.labels, answer, before[0], after[0], share)
    return render("compared", sentence=sentence, columns=columns)


def hide_painted(layers: list[str], examples: list[Example]) -> tuple[Image.Image | UserError, float]:
    """The picture of one prepared pair without the painted pixels, and their share; or why that is not possible.

    All other pixels keep their values.
    """
    picture = examples[0].image
    assert isinstance(picture, Image.Image)
    try:
        painted = painted_pixels(layers, picture.size)
    except UserError as error:
        return error, 0.0
    if not painted.any():
        return UserError("Nothing is painted. Paint over the region to hide, then press the button again."), 0.0
    small, mask = picture.copy(), Image.fromarray(painted)
    small.thumbnail((FILL_SIDE, FILL_SIDE))
    hidden = np.asarray(mask.resize(small.size, Image.Resampling.NEAREST)) if small.size != picture.size else painted
    pixels = torch.from_numpy(np.array(small, dtype=np.float32)).permute(2, 0, 1)
    filled = hide(pixels[None], torch.from_numpy(hidden.copy())[None])[0].round().byte().permute(1, 2, 0).numpy()
    filling = Image.fromarray(filled).resize(picture.size, Image.Resampling.BILINEAR)
    return Image.composite(filling, picture, mask), float(painted.mean())


def as_file(picture: Image.Image) -> bytes:
    """An uncompressed file of the picture, for `Engine.ask`."""
    file = BytesIO()
    picture.save(file, "BMP")
    return file.getvalue()


def compare(labels: list[str], answer: int, before: np.ndarray, after: np.ndarray, share: float) -> str:
    """What hiding the region did to the answer, in one sentence.

    Args:
        before, after: class probabilities ``(C,)``.
        share: share of the picture that is painted.
    """
    area = "less than 1%" if share < 0.005 else f"{share:.0%}"
    was, now = (f"{values[answer]:.0%}" for values in (before, after))
    change = (
        f"stays at {now}"
        if was == now
        else f"{'falls' if after[answer] < before[answer] else 'rises'} from {was} to {now}"
    )
    other = int(after.argmax())
    becomes = "" if other == answer else f", and the answer becomes “{labels[other]}” ({after[other]:.0%})"
    return f"Without the painted region ({area} of the picture) “{labels[answer]}” {change}{becomes}."


def shown(picture: object) -> str:
    """A picture of the comparison as a ``data:`` URI."""
    assert isinstance(picture, Image.Image)
    small = picture.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return to_data_uri(small)
