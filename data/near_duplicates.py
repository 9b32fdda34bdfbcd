"""Near-duplicate images: the same image with another size or compression, or with a small change."""

import numpy as np
from PIL import Image
from scipy.sparse import triu
from sklearn.neighbors import NearestNeighbors

SIDE = 8
"""Side of the thumbnails that are compared, in pixels."""
NEAR = 4.0
"""Largest root mean square difference of near-duplicate thumbnails, on the scale of 0 to 255.

Measured: the same image at three quarters of the size, as JPEG of quality 70, differs by up to 0.8 (VQA-RAD) and 4.1
(easy_vqa). Different images differ by at least 9.4 (VQA-RAD), and 99 % of them by at least 7.8 (easy_vqa)."""


def thumbnail(image: Image.Image) -> np.ndarray:
    """The pixels of a small copy of a decoded image ``(SIDE · SIDE · 3,)``."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float32).ravel()


def near_duplicates(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Pairs ``(first, second)`` of indices of thumbnails ``(n, SIDE · SIDE · 3)`` that are nearly equal."""
    pairs = triu(neighbors_of(thumbnails).radius_neighbors_graph(thumbnails), k=1).tocoo()
    return sorted(zip(pairs.row.tolist(), pairs.col.tolist(), strict=True))


def are_among(thumbnails: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each of the thumbnails ``(n, SIDE · SIDE · 3)`` is nearly equal to one of the others ``(n,)`` bool."""
    return neighbors_of(others).radius_neighbors_graph(thumbnails).getnnz(axis=1) > 0


def neighbors_of(thumbnails: np.ndarray) -> NearestNeighbors:
    """Finds what is nearly equal to one of the thumbnails."""
    return NearestNeighbors(radius=NEAR * np.sqrt(thumbnails.shape[1]), algorithm="brute").fit(thumbnails)
