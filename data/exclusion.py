"""Leave out the rows whose image is in another table, so that this table can be scored honestly by a later model."""

from dataclasses import replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from data.column_names import require_columns
from data.errors import UserError
from data.image_cells import resolve_image
from data.image_formats import BadImageError
from data.images import decode_image
from data.near_duplicates import SIDE, are_among, thumbnail
from data.paths import user_path
from data.rows import Rows
from data.settings import DataSettings
from data.sources import fetch_files, load_source
from data.value_range import ValueRange, check_range, choose_ranges


def exclude_images(splits: dict[str, Rows], source: str, settings: DataSettings) -> tuple[dict[str, list[int]], str]:
    """The rows of train and validation that are kept, and a note about the others.

    Args:
        splits: rows with their images checked.
        source: the table whose images are left out.

    Returns:
        split → places of the rows that have no image, or one that is not nearly equal to an image of the table.

    Raises:
        UserError: a stream, a table without readable images, or no row that is kept.
    """
    if settings.streaming:
        raise UserError("data.exclude compares all images before training, which a stream does not allow.")
    stats = splits["train"].value_stats
    assert stats is not None
    value_range = check_range(settings.value_range) or choose_ranges(stats)
    others = table_thumbnails(source, settings, value_range)
    kept: dict[str, list[int]] = {}
    found: list[str] = []
    for split in ("train", "validation"):
        if split not in splits:
            continue
        rows = replace(splits[split], value_range=value_range)
        first = {key: place for place, key in reversed([*enumerate(rows.image_keys)]) if key is not None}
        bar = tqdm(first.values(), f"comparing images of {split}", unit="image", leave=False)
        thumbnails = [thumbnail(rows.decoded_image(place, SIDE)) for place in bar]
        near = are_among(np.stack(thumbnails), others) if thumbnails else np.zeros(0, dtype=bool)
        known = {key for key, is_near in zip(first, near, strict=True) if is_near}
        kept[split] = [place for place, key in enumerate(rows.image_keys) if key not in known]
        if not kept[split]:
            raise UserError(f"No row is left of {rows.source}: its images are all in {source} (data.exclude).")
        found.append(f"{len(rows) - len(kept[split]):,} rows with {len(known):,} images of {split}")
    return kept, f"left out, because their images are in {source}: {' and '.join(found)}"


def table_thumbnails(source: str, settings: DataSettings, value_range: ValueRange) -> np.ndarray:
    """The thumbnails of the images of a table.

    Raises:
        UserError: a table that cannot be read, or an image of it.
    """
    table, folder = load_source(source, "test")
    if not len(table):
        raise UserError(f"{source} has no rows (data.exclude).")
    require_columns(table.column_names, {"image": [settings.image]}, source)
    root = user_path(settings.image_root) if settings.image_root else folder
    fetch_files(table, {settings.image: ""}, root)
    found, seen = [], set()
    for number, cell in enumerate(tqdm(table[settings.image], f"reading images of {source}", leave=False)):
        if isinstance(cell, str) and cell in seen:
            continue
        seen.add(cell if isinstance(cell, str) else None)
        try:
            stored = resolve_image(cell, root, settings.confine_images)
            if stored is not None:
                how: dict[str, Any] = {"value_range": value_range, "frames": settings.frames, "side": SIDE}
                found.append(thumbnail(decode_image(stored, settings.max_pixels, **how)))
        except BadImageError as error:
            raise UserError(f"Row {number} of {source} (data.exclude): {error}") from error
    if not found:
        raise UserError(f"{source} has no images in its column {settings.image!r} (data.exclude).")
    return np.stack(found)
