"""The inputs of further contexts on the page: a picture, a sound, a text, a field for each column, or numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import soundfile
from gradio.components import Component
from gradio.data_classes import FileData

from app.inference.predictor import Predictor
from app.inference.python_contexts import contexts_by_name
from data import Rows, decode_image
from data.audio import CHECKED_RATE, decode_sound
from data.contexts import ContextCell, number_of
from data.errors import UserError
from models.processor import is_missing

PICTURE_HEIGHT = 200
"""Height of the picture of a context, in pixels."""


class ContextInputs:
    """Build the inputs.

    Args:
        open_picture: makes an input for a picture, from its label and height.

    Attributes:
        components: the inputs in order; features of several columns have one each.
        kinds: name of a context → text, image or features.
    """

    def __init__(self, predictor: Predictor, open_picture: Callable[..., gr.Image]):
        self.contexts = predictor.contexts
        self.kinds = {context.name: context.kind for context in predictor.contexts}
        self.specs: Sequence[Mapping[str, Any]] = predictor.model.config.contexts or ()
        self.components: list[Component] = []
        for spec in self.specs:
            if spec["kind"] == "columns":
                with gr.Row():
                    self.components += [column_input(column) for column in spec["inputs"]]
            elif spec["kind"] == "image":
                self.components.append(
                    open_picture(label=spec["name"], height=PICTURE_HEIGHT, elem_id=f"context-{spec['name']}")
                )
            elif spec["kind"] == "audio":
                sound = gr.Audio(type="filepath", sources=["upload", "microphone"], label=spec["name"])
                sound.preprocess = path_of  # type: ignore[method-assign]
                self.components.append(sound)
            else:
                numbers = "" if spec["kind"] == "text" else f": a list of {spec['width']} numbers, or of such lists"
                self.components.append(gr.Textbox(label=f"{spec['name']}{numbers}", lines=2, max_lines=6))

    def cells(self, values: Sequence[Any]) -> dict[str, ContextCell | None]:
        """The contexts by name from the values of the inputs.

        Raises:
            UserError: a value that cannot be read.
        """
        return contexts_by_name(self.given(values), self.contexts)

    def given(self, values: Sequence[Any]) -> dict[str, Any]:
        """The values of the inputs by name: files of pictures, texts, lists of numbers, and cells by column.

        Raises:
            UserError: a text that is no list of numbers.
        """
        rest, given = iter(values), dict[str, Any]()
        for spec in self.specs:
            if spec["kind"] == "columns":
                given[spec["name"]] = {column["name"]: next(rest) for column in spec["inputs"]}
            else:
                value = next(rest)
                given[spec["name"]] = read_numbers(value, spec["name"]) if spec["kind"] == "vectors" else value
        return given

    def example(self, rows: Rows, index: int, folder: Path, max_pixels: int) -> list[Any]:
        """Values of the inputs for a row; pictures are copied to a folder."""
        cells, found = rows.example(index, None).contexts, list[Any]()
        for spec in self.specs:
            cell = cells.get(spec["name"])
            if spec["kind"] == "columns":
                values = [None] * len(spec["inputs"]) if cell is None else cell.value
                found += [
                    value if value is None or column["categories"] else number_of(value)
                    for value, column in zip(values, spec["inputs"], strict=True)
                ]
            elif cell is None:
                found.append(None)
            elif spec["kind"] == "image":
                picture = decode_image(cell.value, max_pixels, value_range=rows.value_range)
                path = folder / f"{index}_{spec['name']}.png"
                picture.save(path)
                found.append(str(path))
            elif spec["kind"] == "audio":
                path = folder / f"{index}_{spec['name']}.wav"
                soundfile.write(path, decode_sound(cell.value, CHECKED_RATE), CHECKED_RATE)
                found.append(str(path))
            else:
                found.append(cell.value if spec["kind"] == "text" else json.dumps(cell.value.tolist()))
        return found


def path_of(payload: FileData | None) -> str | None:
    """Replacement for the ``preprocess`` of pictures and sounds, which opens a file with every decoder of gradio."""
    return None if payload is None else payload.path


def column_input(column: Mapping[str, Any]) -> Component:
    """A field for a column: a number, or one of its categories."""
    if column["categories"] is None:
        return gr.Number(None, label=column["name"])
    return gr.Dropdown(["", *column["categories"]], value="", label=column["name"])


def read_numbers(value: object, name: str) -> list | None:
    """The list that a text holds as JSON; ``None`` for an empty text.

    Raises:
        UserError: another text.
    """
    if is_missing(value):
        return None
    try:
        found = json.loads(str(value))
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise UserError(f"The context {name} is a list of numbers, such as [0.5, -1, 2].")
    return found
