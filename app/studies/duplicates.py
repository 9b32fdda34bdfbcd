"""Images that are nearly the same: another size, another compression, a small change."""

import numpy as np
from PIL import Image
from scipy.sparse import triu
from sklearn.neighbors import NearestNeighbors

SIDE = 8
"""Of the thumbnails that are compared."""
NEAR = 4.0
"""Root mean square difference of two thumbnails, of 255, up to which pictures are near-duplicates.

Of VQA-RAD and easy_vqa, the same picture at three quarters of the size as a JPEG of quality 70 differs by up to 0.8 and
4.1, another one by at least 9.4 and, for 99 of 100, 7.8."""


def thumbnail(image: Image.Image) -> np.ndarray:
    """A small copy of a decoded picture ``(SIDE · SIDE · 3,)``."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float32).ravel()


def near_duplicates(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of places ``(first, second)`` whose thumbnails ``(n, SIDE · SIDE · 3)`` are nearly the same."""
    neighbors = NearestNeighbors(radius=NEAR * np.sqrt(thumbnails.shape[1]), algorithm="brute").fit(thumbnails)
    pairs = triu(neighbors.radius_neighbors_graph(thumbnails), k=1).tocoo()
    return sorted(zip(pairs.row.tolist(), pairs.col.tolist(), strict=True))
