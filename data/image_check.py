"""Decode every image once before training, to find unreadable and duplicate images and their sizes."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tqdm.auto import tqdm

from data.errors import UserError
from data.hashing import content_key
from data.image_cells import StoredImage
from data.image_files import read_frames
from data.image_formats import BadImageError
from data.images import check_and_measure
from data.messages import excerpt_path
from data.rows import Rows
from data.settings import DataSettings
from data.string_column import write_columns
from data.value_range import EIGHT_BIT, VALUE_STATS

BLOCK = 64
"""Images in memory at a time."""
MAX_NAMED = 100
"""Bad images that a message lists; it counts all of them."""
UNNAMED = ("no image", "embedded image", "cell")
"""Names of images without a path."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """The result of reading one image.

    Attributes:
        name: its path, or one of `UNNAMED`.
        key: hash of its bytes; ``None`` if it is missing or unreadable.
        size: (width, height) in pixels.
        fault: why it cannot be used.
        value_stats: see `data.value_range.VALUE_STATS`.
    """

    name: str
    key: str | None = None
    size: tuple[int, int] | None = None
    fault: str | None = None
    value_stats: tuple = EIGHT_BIT

    @property
    def has_path(self) -> bool:
        return self.name not in UNNAMED


def inspect_image(image: StoredImage | BadImageError, settings: DataSettings) -> ImageInfo:
    """Read and decode one image as in training."""
    if isinstance(image, BadImageError):
        return ImageInfo("cell", fault=str(image))
    if image is None:
        return ImageInfo("no image", fault=None if settings.allow_missing else "the cell is empty")
    name = image if isinstance(image, str) else (image.get("path") or "embedded image")
    try:
        parts = read_frames(image, settings.frames)
        size, value_stats = check_and_measure(parts, settings.max_pixels, settings.frames)
        return ImageInfo(name, content_key(b"".join(parts)), size, value_stats=value_stats)
    except BadImageError as error:
        return ImageInfo(name, fault=str(error))


def inspect_images(images: Iterable[StoredImage | BadImageError], settings: DataSettings) -> Iterator[ImageInfo]:
    """Inspect images in order, in several threads; each file is read once."""
    found: dict[str | int, ImageInfo] = {}
    images = iter(images)
    with ThreadPoolExecutor() as pool:
        while block := list(islice(images, BLOCK)):
            names = [image if isinstance(image, str) else number for number, image in enumerate(block)]
            new = {name: image for name, image in zip(names, block, strict=True) if name not in found}
            found |= zip(new, pool.map(lambda image: inspect_image(image, settings), new.values()), strict=True)
            yield from (found[name] for name in names)
            found = {name: info for name, info in found.items() if isinstance(name, str)}


def verify_images(rows: Rows, settings: DataSettings) -> tuple[Rows, list[ImageInfo]]:
    """Read and decode the image of every row, each file once.

    Returns:
        The rows with their image keys and value statistics, and the `ImageInfo` of each row. If ``on_bad_image`` is
        ``skip``, rows with a bad image are left out, and their images are printed.

    Raises:
        UserError: unreadable or missing images; names them.
    """
    found = inspect_images(rows.images(), settings)
    infos = list(tqdm(found, f"reading images of {rows.source}", len(rows), unit="row", leave=False))
    rows.image_keys = write_columns(((info.key,) for info in infos), 1)[0]
    rows.value_stats = np.array([info.value_stats for info in infos], dtype=VALUE_STATS)
    good = [i for i, info in enumerate(infos) if info.fault is None]
    if len(good) < len(rows):
        faults = describe_faults(rows, infos)
        if settings.on_bad_image == "stop" or not good:
            trust = " To allow paths outside it, set --data.confine_images false." if rows.confined else ""
            raise UserError(
                f"{faults}\nRepair them, or leave their rows out with --data.on_bad_image skip. Paths are relative to "
                f"{rows.image_root or 'the current folder'}; name another folder with --data.image_root.{trust}"
            )
        print(f"{faults}\nThese rows are left out (data.on_bad_image: skip).")
    return rows.select(good), [infos[i] for i in good]


def describe_faults(rows: Rows, infos: list[ImageInfo]) -> str:
    """The number of rows with a bad image, and each bad image with its fault."""
    bad = [(row, info) for row, info in zip(rows.numbers, infos, strict=True) if info.fault is not None]
    named = {info.name if info.has_path else f"row {row}, {info.name}": info.fault for row, info in bad}
    root = str(rows.image_root or "")
    lines = [f"  {excerpt_path(name, root)}: {fault}" for name, fault in named.items()]
    more = [f"  … and {len(lines) - MAX_NAMED} more"] if len(lines) > MAX_NAMED else []
    head = f"{len(bad)} rows of {rows.source} have an image that cannot be read:"
    return "\n".join([head, *lines[:MAX_NAMED], *more])
