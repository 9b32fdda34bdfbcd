"""Pictures of more than 8 bits (12 bits in 16, CT values, floating point): which value is black, and which white."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from data.errors import UserError
from data.messages import name_rows

ValueRange = Sequence[float] | Mapping[str, Sequence[float]] | None
"""Lowest and highest value ``(low, high)``, or such a pair for each of `KINDS`; ``None``: chosen for each picture."""
KINDS = ("integer", "float")
"""Pictures whose value range is not known from their format."""
USUAL: tuple[tuple[float, float], ...] = ((0, 1), (-1, 1), *((0, 2**bits - 1) for bits in (8, 10, 12, 14, 16)))
"""Ranges that pictures are usually stored in, the narrowest first."""
OVERSHOOT = 0.05
"""Share of their span by which floating-point values may exceed a range that they are meant to be of, as after
resampling."""
LIMIT = 1e38
"""Largest magnitude of a value, so that differences fit in float32; larger ones mark missing data."""
DIM = 1 / 8
"""Share of the range below which a picture is almost one grey: 32 of 256 levels."""
VALUES = np.dtype([("kind", "i1"), ("low", "f8"), ("high", "f8"), ("is_finite", "?")])
"""Of each picture its place in `KINDS`, lowest and highest finite value, and whether all its values are finite."""
NO_VALUES = (-1, np.nan, np.nan, True)
"""The `VALUES` of a picture of 8 bits a channel, which needs no range, and of no picture."""


def kind_of(image: Image.Image) -> str | None:
    """One of `KINDS`; ``None`` for a picture of 8 bits a channel."""
    if image.mode == "F":
        return "float"
    return "integer" if image.mode.startswith("I") else None


def measure(image: Image.Image) -> tuple[int, float, float, bool]:
    """The `VALUES` of a picture; without a finite value its lowest and highest are NaN."""
    kind = kind_of(image)
    if kind is None:
        return NO_VALUES
    pixels = np.asarray(image)
    finite = np.isfinite(pixels) & (np.abs(pixels) <= LIMIT) if kind == "float" else np.ones(1, dtype=bool)
    if finite.all():
        return KINDS.index(kind), float(pixels.min()), float(pixels.max()), True
    if not finite.any():
        return KINDS.index(kind), np.nan, np.nan, False
    return KINDS.index(kind), float(pixels[finite].min()), float(pixels[finite].max()), False


def range_of(kind: str, low: float, high: float) -> tuple[float, float]:
    """The narrowest of the `USUAL` ranges for values from low to high; else, or where they would be `DIM`, these.

    Floating-point values may exceed those of up to 8 bits by `OVERSHOOT`. Integers that are all equal tell nothing of
    their depth and are read as 16 bit.
    """
    if kind == "integer" and low == high and 0 <= low <= 65535:
        return USUAL[-1]
    for black, white in USUAL:
        more = OVERSHOOT * (high - low) if kind == "float" and white <= 255 else 0
        if black - more <= low and high <= white + more and (white == 1 or high > DIM * white):
            return black, white
    return low, high


def choose_ranges(values: np.ndarray) -> dict[str, list[float]] | None:
    """One range for all pictures of a kind, from their `VALUES`; ``None`` where there is no picture of either."""
    found = {}
    for number, kind in enumerate(KINDS):
        of_kind = values[(values["kind"] == number) & ~np.isnan(values["low"])]
        if len(of_kind):
            found[kind] = [*map(float, range_of(kind, of_kind["low"].min(), of_kind["high"].max()))]
    return found or None


def check_range(setting: Sequence[float] | str) -> ValueRange:
    """The range that ``data.value_range`` names; ``None`` for ``auto``.

    Raises:
        UserError: not two numbers, the lower one first.
    """
    if setting == "auto":
        return None
    if isinstance(setting, str) or len(setting) != 2 or not -LIMIT <= setting[0] < setting[1] <= LIMIT:
        raise UserError(
            f"data.value_range must be auto or [LOW, HIGH], the values that are black and white, got {setting}."
        )
    return [float(value) for value in setting]


def to_eight_bit(image: Image.Image, value_range: ValueRange) -> Image.Image:
    """A picture of one of `KINDS` as 8-bit grey.

    Its range becomes 0 to 255, and values beyond it the nearer end; NaN is black. A range that is not given is chosen
    from the picture's own values.
    """
    kind = kind_of(image)
    assert kind is not None
    chosen = value_range.get(kind) if isinstance(value_range, Mapping) else value_range
    if chosen is None:
        _, *extremes, _ = measure(image)
        chosen = (0, 1) if np.isnan(extremes[0]) else range_of(kind, *extremes)
    pixels = np.asarray(image)
    low, high = map(float, chosen)
    grey = pixels.astype(np.float32)
    np.nan_to_num(grey, copy=False, nan=low, posinf=high, neginf=low)
    grey.clip(low, high, out=grey)
    grey -= low
    grey *= 255 / (high - low) if high > low else 0
    grey = grey.round(out=grey).astype(np.uint8)
    if isinstance(hidden := image.info.get("transparency"), int):
        grey[pixels == hidden] = 255  # as all that is transparent, on white
    return Image.fromarray(grey)


@dataclass(frozen=True)
class ValueFigures:
    """How the pictures of one kind in a table are read.

    Attributes:
        kind: one of `KINDS`.
        images: how many different ones there are.
        within: ``(low, high, images)``: the range that each picture by itself would have, the most frequent first.
        chosen: the range in which all are read; ``None`` where each is read in its own.
        is_given: by the user, not by the values of the training images.
        dim: rows whose picture, though not of one value, spans less than `DIM` of that range.
        clipped: rows whose picture has values beyond it.
        not_finite: rows whose picture has NaN or infinite values.
        unsigned: rows without negative values, where others have some.
    """

    kind: str
    images: int
    within: list[tuple[float, float, int]]
    chosen: tuple[float, float] | None
    is_given: bool
    dim: list[int]
    clipped: list[int]
    not_finite: list[int]
    unsigned: list[int]

    @classmethod
    def of(cls, kind: str, values: np.ndarray, rows: np.ndarray, value_range: ValueRange) -> ValueFigures:
        """Count pictures by their `VALUES` ``(n,)``; ``rows`` are the numbers by which they are named."""
        chosen = value_range.get(kind) if isinstance(value_range, Mapping) else value_range
        low, high = values["low"], values["high"]  # NaN, for which no comparison holds, where there is no finite value
        dim = clipped = np.zeros(len(values), dtype=bool)
        if chosen is not None:
            black, white = chosen
            dim = (high > low) & (np.minimum(high, white) - np.maximum(low, black) < DIM * (white - black))
            more = OVERSHOOT * (high - low) if kind == "float" else 0
            clipped = (low < black - more) | (high > white + more)
        unsigned = (low >= 0) & (low < -1).any()
        return cls(
            kind,
            len(values),
            count_ranges(kind, values),
            None if chosen is None else (float(chosen[0]), float(chosen[1])),
            chosen is value_range and chosen is not None,
            *(rows[mask].tolist() for mask in (dim, clipped, ~values["is_finite"], unsigned)),
        )

    def to_json(self) -> dict:
        """The figures, with rows counted, and what `describe` and `warnings` say."""
        rows = {name: len(getattr(self, name)) for name in ("dim", "clipped", "not_finite", "unsigned")}
        return asdict(self) | rows | {"description": self.describe(), "warnings": self.warnings()}

    def describe(self) -> str:
        """How many images have which range, and how they are read."""
        numbers = {"integer": "integers of more than 8 bits", "float": "floating-point values"}[self.kind]
        counted = ", ".join(f"{count:,} within {low:g} to {high:g}" for low, high, count in self.within)
        read = "each is read in its own range"
        if self.chosen is not None:
            read = f"{self.chosen[0]:g} is read as black, {self.chosen[1]:g} as white"
            if not self.is_given and self.chosen not in USUAL:
                read += "; --data.value_range [LOW, HIGH] gives a narrower one more contrast in training"
        return f"{self.images:,} images hold {numbers} ({counted or 'none is finite'}); {read}"

    def warnings(self) -> list[str]:
        """What is likely to be read otherwise than it is meant, with the rows it concerns."""
        alike = "store all images on one scale, or train with --data.value_range [LOW, HIGH]"
        found = {
            f"span less than an eighth of this range and become almost one grey; {alike}": self.dim,
            f"have no negative value and others have; {alike}": self.unsigned,
            "have values beyond this range, which become black or white": [] if self.is_given else self.clipped,
            "hold NaN or infinite values; NaN becomes black": self.not_finite,
        }
        lines = [f"{len(rows):,} images ({name_rows(rows)}) {fault}" for fault, rows in found.items() if rows]
        if self.chosen is None and len(self.within) > 1:
            lines.append(f"images are read in {len(self.within)} different ranges; {alike}")
        return lines


def count_ranges(kind: str, values: np.ndarray) -> list[tuple[float, float, int]]:
    """The `range_of` each picture and the number of pictures with it; those that are not `USUAL` are taken together."""
    pairs = [pair for pair in zip(values["low"].tolist(), values["high"].tolist(), strict=True) if pair[0] <= pair[1]]
    ranges = [range_of(kind, *pair) for pair in pairs]
    other = [found for found in ranges if found not in USUAL]
    together = [(min(low for low, _ in other), max(high for _, high in other), len(other))] if other else []
    counts = Counter(found for found in ranges if found in USUAL)
    counted = [(low, high, number) for (low, high), number in counts.items()] + together
    return sorted(counted, key=lambda item: -item[2])


def value_figures(
    values: np.ndarray, keys: Sequence[str | None], numbers: np.ndarray, value_range: ValueRange
) -> list[ValueFigures]:
    """How the pictures of a table are read, by kind; none for pictures of 8 bits a channel.

    Args:
        values: `VALUES` of the picture of each row ``(n,)``.
        keys: which rows have the same picture.
        numbers: of the rows.
        value_range: in which they are read.
    """
    deep = np.flatnonzero(values["kind"] >= 0).tolist()
    first = sorted({keys[i]: i for i in reversed(deep)}.values())
    found = []
    for number, kind in enumerate(KINDS):
        places = [i for i in first if values["kind"][i] == number]
        if places:
            found.append(ValueFigures.of(kind, values[places], numbers[places], value_range))
    return found
