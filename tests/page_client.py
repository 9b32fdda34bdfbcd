"""Requests to the page through gradio_client."""

import tempfile
from pathlib import Path

from asking import png
from gradio_client import handle_file
from PIL import Image


def paint(client, shapes_folder, layer: Image.Image | bytes | None, suffix: str = ".png"):
    """Ask about a picture, and again without what a layer covers."""
    client.predict(handle_file(shapes_folder / "images/test/0.png"), "what color is the circle?", api_name="/ask")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"layer{suffix}"
        file.write_bytes(layer if isinstance(layer, bytes) else png(layer) if layer else b"")
        layers = [handle_file(file)] if layer else []
        value = {"background": None, "layers": layers, "composite": None}
        return client.predict(value, api_name="/hide_and_ask")
