"""Convert the images and texts of Python code to the forms that `data` reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from app.inference.download import fetch, is_url
from data import BadImageError, decode_image
from data.contact_sheet import contact_sheet
from data.errors import UserError
from data.hashing import content_key
from data.image_files import read_image
from data.messages import enumerate_names, excerpt_path, quote
from data.videos import frame_numbers, reduced
from models.processor import is_missing

ImageInput = (
    str
    | os.PathLike
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | Image.Image
    | np.ndarray
    | torch.Tensor
    | Mapping[str, Any]
    | None
)
"""An image in Python, as `read_image_input` takes it."""
CHANNELS = (1, 2, 3, 4)
"""Grey, grey with alpha, RGB, RGB with alpha."""


class Pictures:
    """Decoded pictures by content, so that equal pictures are stored once.

    Args:
        decode: returns a new RGB picture for encoded bytes or for a picture, as `data.decode_image` does.
        fetch_urls: fetch ``http(s)`` addresses.
        frames: number of frames that the model sees of a video; 1 for pictures.

    Attributes:
        num_pixels: pixels of all different pictures together.
    """

    def __init__(
        self, decode: Callable[[str | bytes | Image.Image], Image.Image], fetch_urls: bool = False, frames: int = 1
    ):
        self.decode, self.fetch_urls, self.frames = decode, fetch_urls, frames
        self.by_bytes: dict[str, tuple[str, Image.Image]] = {}
        self.by_pixels: dict[str, Image.Image] = {}
        self.num_pixels = 0

    def read(self, image: ImageInput) -> tuple[str, Image.Image] | None:
        """The key of an image and the decoded picture; ``None`` for a missing image.

        Raises:
            BadImageError: an image that cannot be read; the message names its file.
        """
        try:
            found = read_image_input(image, self.fetch_urls) if self.frames == 1 else self.read_video(image)
            return None if found is None else self.add(found)
        except BadImageError as error:
            name = f"The image {excerpt_path(str(image))}" if isinstance(image, str | os.PathLike) else "The image"
            raise BadImageError(f"{name} cannot be read: {error}") from error

    def read_video(self, image: ImageInput) -> str | bytes | Image.Image | None:
        """As `read_image_input`; also the path of a folder of frames, and the sheet of an array of frames."""
        if isinstance(image, str | os.PathLike) and os.path.isdir(image):
            return os.fsdecode(image)
        if isinstance(image, np.ndarray | torch.Tensor) and image.ndim == 4:
            if not len(image):
                raise BadImageError(f"an array of shape {tuple(image.shape)} has no frames")
            pictures = [read_image_input(image[number]) for number in frame_numbers(len(image), self.frames)]
            return contact_sheet([reduced(decode_image(picture)) for picture in pictures if picture is not None])
        return read_image_input(image, self.fetch_urls)

    def add(self, image: str | bytes | Image.Image) -> tuple[str, Image.Image]:
        """The key and a decoded copy of the picture."""
        encoded = content_key(image) if isinstance(image, bytes) else None
        if encoded is not None and encoded in self.by_bytes:
            return self.by_bytes[encoded]
        picture = self.decode(image)
        key = f"{picture.width}×{picture.height} {content_key(picture.tobytes())}"
        if key not in self.by_pixels:
            self.by_pixels[key] = picture
            self.num_pixels += picture.width * picture.height
        found = key, self.by_pixels[key]
        if encoded is not None:
            self.by_bytes[encoded] = found
        return found


def read_text_input(text: object) -> str | None:
    """A text without the spaces around it; ``None`` for a missing text.

    Raises:
        UserError: not a string.
    """
    if is_missing(text):
        return None
    if not isinstance(text, str):
        raise UserError(f"A text is a string, or None for no text; got {type(text).__name__}: {quote(text)}.")
    return text.strip()


def read_image_input(image: Any, fetch_urls: bool = False) -> bytes | Image.Image | None:
    """The encoded bytes of an image, or the picture if it is decoded already; ``None`` for a missing image.

    Args:
        image: an `ImageInput`: the path of a file; its bytes; a file opened with ``"rb"``, which is read from its
            beginning; a PIL image of any mode; a numpy array (`array_to_picture`) or torch tensor
            (`tensor_to_picture`); the ``{"bytes", "path"}`` of `datasets`; or an ``http(s)`` address.
        fetch_urls: fetch addresses.

    Raises:
        BadImageError: another type, a mapping with other keys, an array with another shape or range, or a file that
            cannot be read.
    """
    if isinstance(image, Mapping):
        image = content_of_cell(image)
    if is_missing(image):
        return None
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return array_to_picture(image)
    if isinstance(image, torch.Tensor):
        return tensor_to_picture(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if is_url(image) and not os.path.exists(image):
        if not fetch_urls:
            raise BadImageError("addresses are not fetched; download it, or allow it: Predictor(…, fetch_urls=True)")
        return fetch(image)
    if isinstance(image, str | os.PathLike):
        return read_image(os.fsdecode(image))
    if hasattr(image, "read"):
        return read_file(image)
    raise BadImageError(
        f"expected the path of a file, its bytes, a file opened with 'rb', a PIL image, a numpy array (H, W) or "
        f"(H, W, 3), a torch tensor (3, H, W), or None for no image; got {type(image).__name__}"
    )


def content_of_cell(cell: Mapping[str, Any]) -> Any:
    """The bytes in the ``{"bytes", "path"}`` of `datasets`, or its path without them; ``None`` without both.

    Raises:
        BadImageError: a mapping with neither of these keys.
    """
    if "bytes" not in cell and "path" not in cell:
        found = f"one with the keys {enumerate_names(cell)}" if cell else "an empty one"
        is_row = "image" in cell or "text" in cell
        cure = "; give a row in a list: predictor.predict([row])" if is_row else ""
        raise BadImageError(f"a mapping must have 'bytes' or 'path', as a cell of datasets; got {found}{cure}")
    return cell.get("path") if cell.get("bytes") is None else cell["bytes"]


def read_file(file: IO[bytes]) -> bytes:
    """All bytes of an open file, from its beginning if it is seekable."""
    try:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        data = file.read()
    except (OSError, ValueError) as error:  # ValueError: a closed file, or text that is no UTF-8
        raise BadImageError(f"cannot read from the file object: {error}") from error
    if not isinstance(data, bytes):
        raise BadImageError(f"a file must be opened with 'rb': reading gave {type(data).__name__}, not bytes")
    return data


def array_to_picture(pixels: np.ndarray) -> Image.Image:
    """A picture from an array ``(H, W)``, or ``(H, W, C)`` with C of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA).

    Values are uint8 in [0, 255], bool, uint16 in [0, 65535] or floating point in [0, 1]. Grey of more than 8 bits may
    have any range, as in files that `decode_image` reads.

    Raises:
        BadImageError: another shape, type or range.
    """
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in CHANNELS):
        is_channels_first = pixels.ndim == 3 and pixels.shape[0] in CHANNELS
        cure = "; put the channels last: array.transpose(1, 2, 0)" if is_channels_first else ""
        raise BadImageError(f"an array must be (H, W) or (H, W, C) with 1 to 4 channels, got {pixels.shape}{cure}")
    if 0 in pixels.shape:
        raise BadImageError(f"an array of shape {pixels.shape} has no pixels")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype != np.uint8:
        pixels = deep_grey(pixels) if pixels.ndim == 2 else eight_bit_color(pixels)
    return Image.fromarray(np.ascontiguousarray(pixels))


def deep_grey(pixels: np.ndarray) -> np.ndarray:
    """Grey of more than 8 bits in a type that PIL supports: uint16, int32 or float32."""
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    if pixels.dtype.kind not in "iu":
        raise BadImageError(f"values must be numbers, got {pixels.dtype}")
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        return pixels.astype(np.uint16)  # to native byte order
    limits = np.iinfo(np.int32)
    if pixels.min() < limits.min or pixels.max() > limits.max:
        raise BadImageError(f"integers must fit in 32 bits, these reach from {pixels.min()} to {pixels.max()}")
    return pixels.astype(np.int32)


def eight_bit_color(pixels: np.ndarray) -> np.ndarray:
    """Colours as uint8, from uint16 or from floating point in [0, 1]."""
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        return (pixels / np.float32(257)).round().astype(np.uint8)
    if pixels.dtype.kind != "f":
        raise BadImageError(f"colours must be uint8, uint16, bool or floating point in [0, 1], got {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise BadImageError(
            f"colours in floating point must be in [0, 1], these are in [{low:.4g}, {high:.4g}]; divide them by the "
            "largest possible value, undo a normalisation, or convert them to uint8"
        )
    return (pixels.astype(np.float32) * 255).round().astype(np.uint8)


def tensor_to_picture(pixels: torch.Tensor) -> Image.Image:
    """A picture from a tensor ``(H, W)`` or ``(C, H, W)`` on any device; values as for `array_to_picture`.

    Raises:
        BadImageError: another shape, type or range.
    """
    if pixels.dim() == 3 and pixels.shape[0] not in CHANNELS:
        cure = "; put the channels first: tensor.permute(2, 0, 1)" if pixels.shape[2] in CHANNELS else ""
        raise BadImageError(
            f"a tensor must be (H, W) or (C, H, W) with 1 to 4 channels, got {tuple(pixels.shape)}{cure}"
        )
    if pixels.dim() not in (2, 3):
        raise BadImageError(f"a tensor must be one image, (H, W) or (C, H, W), got {tuple(pixels.shape)}")
    pixels = pixels.detach().cpu()
    array = (pixels.float() if pixels.is_floating_point() else pixels).numpy()
    return array_to_picture(array.transpose(1, 2, 0) if array.ndim == 3 else array)
