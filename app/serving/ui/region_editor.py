"""A brush over a picture, with which a person paints the region to hide."""

from __future__ import annotations

import gradio as gr
import numpy as np
from gradio.components.base import server
from gradio.components.image_editor import EditorData
from PIL import Image

from data.image_files import read_image
from data.image_formats import explain_decoder_errors
from data.images import open_image

SIDE = 560
"""Longer side of the picture in the editor, in pixels."""
MAX_LAYER_PIXELS = 4_000_000
"""Larger layers are refused before they are decoded; those of the editor have about ``SIDE²``."""
BRUSH = "rgb(230, 0, 160)"


def region_editor() -> gr.ImageEditor:
    """An editor whose value in Python is the paths of its uploaded layers.

    No event may update its properties: gradio would replace it, for the session, by one without these methods.
    """
    editor = gr.ImageEditor(
        type="filepath",
        format="jpeg",
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(default_size=36, colors=[BRUSH], color_mode="fixed"),
        eraser=gr.Eraser(default_size=36),
        buttons=[],
        show_label=False,
        canvas_size=(SIDE, SIDE),
        height=SIDE + 60,
        interactive=True,
        elem_id="editor",
    )
    editor.preprocess = layers_of  # type: ignore[method-assign, assignment]
    editor.accept_blobs = keep_nothing  # type: ignore[method-assign]
    return editor


def layers_of(payload: EditorData | None) -> list[str]:
    """Replacement for `gr.ImageEditor.preprocess`, which opens pictures with every decoder of Pillow."""
    return [] if payload is None else [layer.path for layer in payload.layers]


@server
def keep_nothing(data: object) -> None:
    """Replacement for `gr.ImageEditor.accept_blobs`, which keeps every state of every editor in memory.

    The editor sends each stroke to it. The button sends the layers as uploads.
    """


def painted_pixels(layers: list[str], size: tuple[int, int]) -> np.ndarray:
    """The painted pixels ``(height, width)`` of layers, for a picture of a given width and height.

    Raises:
        UserError: a layer cannot be read.
    """
    painted = np.zeros((size[1], size[0]), dtype=bool)
    for path in layers:
        with explain_decoder_errors("the painted layer is not a readable picture"):
            layer = open_image(read_image(path), MAX_LAYER_PIXELS).convert("RGBA").getchannel("A")
        painted |= np.asarray(layer.resize(size, Image.Resampling.BILINEAR)) >= 128
    return painted
