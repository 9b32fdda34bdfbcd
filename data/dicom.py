"""DICOM files, read by pydicom: the first frame, with the values of its modality and the window that the file names."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Transfer syntax whose size in memory is not known before it is read."""
VOI = "FrameVOILUTSequence"
PIXEL_TAGS = ["Rows", "Columns", "SamplesPerPixel"]


def is_dicom(data: bytes) -> bool:
    """Whether bytes start as a DICOM file does (PS3.10, section 7.1)."""
    return data[128:132] == b"DICM"


def open_dicom(data: bytes, max_pixels: int) -> Image.Image:
    """Decode the first frame.

    Grey values are those of the modality, such as Hounsfield units. The window of the file, if it names one, is in
    ``info["window"]`` as (low, high); ``info["is_inverted"]`` is set if low values are bright (MONOCHROME1).

    Returns:
        a picture of mode ``I`` or ``F``; of colour files ``RGB``.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: a file without pixels, with too many, or deflated. pydicom raises other exceptions for damaged files
            and for compressions whose decoder is not installed.
    """
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

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
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            colors = apply_color_lut(pixels, dataset)
            return to_rgb(colors, 8 * colors.dtype.itemsize)
        if dataset.SamplesPerPixel == 3:
            return to_rgb(pixels, dataset.BitsStored)
        if "ModalityLUTSequence" in dataset:
            pixels = apply_modality_lut(pixels, dataset)
    transformation = "PixelValueTransformationSequence"
    slope, intercept = (number(dataset, transformation, name) for name in ("RescaleSlope", "RescaleIntercept"))
    values = pixels.astype(np.float64)
    if slope is not None and intercept is not None:
        values = values * slope + intercept
    is_whole = bool(np.all(values == np.round(values))) and abs(values).max() < 2**31
    image = Image.fromarray(values.astype(np.int32 if is_whole else np.float32))
    window = window_of(number(dataset, VOI, "WindowCenter"), number(dataset, VOI, "WindowWidth"))
    image.info |= {"window": window} if window else {}
    image.info |= {"is_inverted": True} if dataset.PhotometricInterpretation == "MONOCHROME1" else {}
    return image


def to_rgb(pixels: np.ndarray, bits: int) -> Image.Image:
    """Colours ``(h, w, 3)`` of a number of bits as 8-bit RGB."""
    return Image.fromarray(np.ascontiguousarray(pixels >> max(0, bits - 8)).astype(np.uint8))


def number(dataset, sequence: str, name: str) -> float | None:
    """The first number of an element of the file, or of the first frame of an enhanced file; ``None`` if it is empty.

    Args:
        sequence: the functional group that holds the element in enhanced files (PS3.3, section C.7.6.16).
    """
    places = [dataset]
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for item in list(dataset.get(groups) or [])[:1]:
            places += list(item.get(sequence) or [])[:1]
    for place in places:
        values = place.get(name)
        if values is not None and str(values) != "":
            found = float(np.atleast_1d(np.asarray(values, dtype=float))[0])
            return found if np.isfinite(found) else None
    return None


def window_of(center: float | None, width: float | None) -> tuple[float, float] | None:
    """The lowest and the highest value of a window (PS3.3, section C.11.2.1.2)."""
    if center is None or width is None or width <= 1:
        return None
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2


def num_pixels(data: bytes) -> int:
    """Pixels of a frame, according to the header."""
    import pydicom

    if DEFLATED in data[:4096]:
        return 0
    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=["Rows", "Columns"])
    return int(dataset.Rows) * int(dataset.Columns)
