"""A table of three rows with its two images."""

import io
import json
from pathlib import Path

import pandas as pd
from PIL import Image as PILImage

from data import DataSettings, load_rows, verify_images


def png(color: str = "red") -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8), color).save(buffer, format="PNG")
    return buffer.getvalue()


def save_images(folder: Path) -> Path:
    """Save the images of the rows in a folder."""
    (folder / "img").mkdir()
    for color in ("red", "blue"):
        (folder / "img" / f"{color}.png").write_bytes(png(color))
    return folder


ROWS = [
    {"image": "img/red.png", "text": "what is it?", "label": "red"},
    {"image": "img/blue.png", "text": "what is it?", "label": "blue"},
    {"image": "img/red.png", "text": "is it red?", "label": "yes"},
]


def write(folder: Path, kind: str, rows: list[dict] = ROWS) -> Path:
    """The rows as a table of a kind that users have."""
    path, frame = folder / f"train.{kind}", pd.DataFrame(rows)
    if kind in ("csv", "tsv"):
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    return path


def read(source, **settings):
    settings = DataSettings(**settings)
    return verify_images(load_rows(str(source), "train", settings), settings)[0]
