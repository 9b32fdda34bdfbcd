"""Read every image once before training: which cannot be read, how large they are, which are the same."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tqdm.auto import tqdm

from data.cells import StoredImage
from data.columns import write_columns
from data.errors import UserError
from data.images import BadImageError, content_key, decode_and_measure, read_image
from data.messages import excerpt_path
from data.rows import Rows
from data.settings import DataSettings
from data.value_range import NO_VALUES, VALUES

BLOCK = 64
"""Images that are in memory at a time."""
MAX_NAMED = 100
"""Bad images that a message names; it counts them all."""


@dataclass(frozen=True, slots=True)
class Look:
    """One image as found: its name, and either key, size in pixels (width, height) and `VALUES`, or the fault."""

    name: str
    key: str | None = None
    size: tuple[int, int] | None = None
    fault: str | None = None
    values: tuple = NO_VALUES

    @property
    def is_file(self) -> bool:
        """Whether the name tells which image it is."""
        return self.name not in ("no image", "embedded image", "cell")


def look_at(image: StoredImage | BadImageError, settings: DataSettings) -> Look:
    """Read and decode one image as training will."""
    if isinstance(image, BadImageError):
        return Look("cell", fault=str(image))
    if image is None:
        return Look("no image", fault=None if settings.allow_missing else "the cell is empty")
    name = image if isinstance(image, str) else (image.get("path") or "embedded image")
    try:
        data = read_image(image)
        picture, values = decode_and_measure(data, settings.max_pixels)
        return Look(name, content_key(data), picture.size, values=values)
    except BadImageError as error:
        return Look(name, fault=str(error))


def look_at_all(images: Iterable[StoredImage | BadImageError], settings: DataSettings) -> Iterator[Look]:
    """How each image looks, in order; several are read at a time, and each file once."""
    seen: dict[str | int, Look] = {}
    images = iter(images)
    with ThreadPoolExecutor() as pool:
        while block := list(islice(images, BLOCK)):
            names = [image if isinstance(image, str) else place for place, image in enumerate(block)]
            new = {name: image for name, image in zip(names, block, strict=True) if name not in seen}
            seen |= zip(new, pool.map(lambda image: look_at(image, settings), new.values()), strict=True)
            yield from (seen[name] for name in names)
            seen = {name: look for name, look in seen.items() if isinstance(name, str)}


def scan_images(rows: Rows, settings: DataSettings) -> tuple[Rows, list[Look]]:
    """Read and decode the image of every row, each file once.

    Returns:
        The rows with their image keys, and what each row's image looks like; where ``on_bad_image`` is ``skip``
        without the rows whose image cannot be read, which are printed by name.

    Raises:
        UserError: images that cannot be read or are missing, by name, unless they are skipped or allowed.
    """
    found = look_at_all(rows.images(), settings)
    looks = list(tqdm(found, f"reading images of {rows.source}", len(rows), unit="row", leave=False))
    rows.image_keys = write_columns(((look.key,) for look in looks), 1)[0]
    rows.values = np.array([look.values for look in looks], dtype=VALUES)
    good = [i for i, found in enumerate(looks) if found.fault is None]
    if len(good) < len(rows):
        faults = describe_faults(rows, looks)
        if settings.on_bad_image == "stop" or not good:
            raise UserError(
                f"{faults}\nRepair them, or leave their rows out with --data.on_bad_image skip. Paths are relative to "
                f"{rows.image_root or 'the current folder'}; name another folder with --data.image_root."
            )
        print(f"{faults}\nThese rows are left out (data.on_bad_image: skip).")
    return rows.select(good), [looks[i] for i in good]


def describe_faults(rows: Rows, looks: list[Look]) -> str:
    """Bad images by name, each once, with the number of rows they concern."""
    bad = [(row, found) for row, found in zip(rows.numbers, looks, strict=True) if found.fault is not None]
    named = {found.name if found.is_file else f"row {row}, {found.name}": found.fault for row, found in bad}
    root = str(rows.image_root or "")
    lines = [f"  {excerpt_path(name, root)}: {fault}" for name, fault in named.items()]
    more = [f"  … and {len(lines) - MAX_NAMED} more"] if len(lines) > MAX_NAMED else []
    head = f"{len(bad)} rows of {rows.source} have an image that cannot be read:"
    return "\n".join([head, *lines[:MAX_NAMED], *more])
