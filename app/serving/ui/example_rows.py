"""Held-out rows of a run as examples on the page."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from app.atomic_write import surviving
from app.reporting.example_grid import evenly_spaced_rows
from app.run_paths import MODEL_FOLDER, find_data
from app.serving.ui.context_inputs import ContextInputs
from app.serving.ui.uploads import make_upload_folder
from app.settings_parser import load_settings
from data import Rows, decode_image, load_rows, verify_images
from data.context_check import verify_contexts
from data.errors import UserError
from models import ImageTextConfig

log = logging.getLogger(__name__)
NUM_EXAMPLES = 6
MAX_SIDE = 840
"""Longest side of an example picture, in pixels."""


def held_out_examples(run: Path, contexts: ContextInputs | None = None) -> list[tuple]:
    """Up to `NUM_EXAMPLES` held-out rows of a run, each with image and text.

    Returns:
        For each row the path of a copy of its picture in the upload folder, its text, and the values of the inputs of
        further contexts. The list is empty for a model without a run folder, and with a warning if its data no longer
        exist or its settings are not those of this version.
    """
    config = run / "config.yaml"
    if not config.is_file():
        return []
    try:
        data = load_settings(config, exits=False).data
        source = "test" if data.test else "validation"
        if getattr(data, source) is None:
            return []
        data = find_data(run, data, [source, "image_root"])
        rows = load_rows(getattr(data, source), "test", data)
        rows = replace(rows, value_range=ImageTextConfig.from_pretrained(surviving(run / MODEL_FOLDER)).value_range)
        with_text = np.flatnonzero([bool(text) or not data.has_text for text in rows.texts])
        chosen = with_text[np.linspace(0, len(with_text) - 1, min(NUM_EXAMPLES, len(with_text))).round().astype(int)]
        rows, _ = verify_images(rows.select(chosen), data)
        rows = verify_contexts(rows, data)
        folder = Path(tempfile.mkdtemp(prefix="examples-", dir=make_upload_folder()))
        shown = evenly_spaced_rows(rows, NUM_EXAMPLES, with_image=True)
        return [
            (
                *write_example(rows, i, folder, data.max_pixels),
                *(contexts.example(rows, i, folder, data.max_pixels) if contexts else []),
            )
            for i in shown
        ]
    except (UserError, OSError) as error:
        log.warning("the page has no examples: %s", error)
        return []


def write_example(rows: Rows, index: int, folder: Path, max_pixels: int) -> tuple[str, str]:
    """Write a small copy of the picture of a row; returns its path, and the text of the row."""
    image = rows.read_image(int(rows.numbers[index]))
    assert image is not None
    picture = decode_image(image, max_pixels, value_range=rows.value_range, frames=rows.frames)
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    path = folder / f"{index}.png"
    picture.save(path)
    return str(path), rows.texts[index] or ""
