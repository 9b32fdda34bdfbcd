"""DICOM files, read by pydicom: the first frame, with the values of its modality and the window that the file names."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Transfer syntax whose size in memory is not known before it is read."""
PIXEL_TAGS = ["Rows", "Columns", "SamplesPerPixel"]


def is_dicom(data: bytes) -> bool:
    """Whether bytes start as a DICOM file does (PS3.10, section 7.1)."""
    return data[128:132] == b"DICM"


def open_dicom(data: bytes, max_pixels: int) -> Image.Image:
    """Decode the first frame.

    Grey values are those of the modality, such as Hounsfield units (rescale slope and intercept). The window of the
    file, if it names one, is in ``info["window"]`` as (low, high); ``info["is_inverted"]`` is set if low values are
    bright (MONOCHROME1).

    Returns:
        a picture of mode ``I`` or ``F``; of colour files ``RGB``.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: a file without pixels, with too many, or deflated. pydicom raises other exceptions for damaged files
            and for compressions whose decoder is not installed.
    """
    import pydicom
    from pydicom.pixels import apply_rescale, pixel_array

    if DEFLATED in data[:4096]:
        raise ValueError("a deflated DICOM file, which is not supported; save it uncompressed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of unusual values, which do not matter for the pixels
        dataset = pydicom.dcmread(io.BytesIO(data))
        if any(tag not in dataset for tag in PIXEL_TAGS) or "PixelData" not in dataset:
            raise ValueError("a DICOM file without a picture")
        if dataset.Rows * dataset.Columns > max_pixels:
            raise ValueError(f"{dataset.Columns}×{dataset.Rows} is more than the {max_pixels:,} pixels allowed")
        pixels = pixel_array(dataset, index=0)
        if dataset.SamplesPerPixel == 3:
            return Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))
        pixels = apply_rescale(pixels, dataset)
    image = Image.fromarray(pixels.astype(np.int32 if np.all(pixels == np.round(pixels)) else np.float32))
    window = window_of(dataset)
    image.info |= {"window": window} if window else {}
    image.info |= {"is_inverted": True} if dataset.PhotometricInterpretation == "MONOCHROME1" else {}
    return image


def window_of(dataset) -> tuple[float, float] | None:
    """The lowest and the highest value of the first window that the file names (PS3.3, section C.11.2.1.2)."""
    centers, widths = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centers is None or widths is None:
        return None
    center, width = (float(np.atleast_1d(np.asarray(values, dtype=float))[0]) for values in (centers, widths))
    if not np.isfinite([center, width]).all() or width <= 1:
        return None
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2


def num_pixels(data: bytes) -> int:
    """Pixels of a frame, according to the header."""
    import pydicom

    if DEFLATED in data[:4096]:
        return 0
    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=["Rows", "Columns"])
    return int(dataset.Rows) * int(dataset.Columns)
