"""JPEG files drawn by code, to measure what photographs cost."""

import io

import numpy as np
from PIL import Image


def photo(number: int, size: tuple[int, int], noise: float = 0.0) -> bytes:
    """A JPEG file of smoothed random pixels and noise, another one for each number.

    Args:
        size: width and height.
        noise: standard deviation of the noise, which makes the file as large as that of a photograph.
    """
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    if noise:
        pixels = pixels + rng.normal(0, noise, (*pixels.shape[:2], 1)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()
