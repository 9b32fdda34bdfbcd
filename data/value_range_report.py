"""Report how images of more than 8 bits are read, with warnings for images that lose contrast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from data.messages import name_rows
from data.value_range import DIM, KINDS, OVERSHOOT, USUAL, ValueRange, range_of


@dataclass(frozen=True)
class ValueRangeReport:
    """How the images of one kind in a table are read.

    Attributes:
        kind: one of `data.value_range.KINDS`.
        images: number of different images.
        within: ``(low, high, images)``: the range that fits each image alone, the most frequent first.
        chosen: range of all images; ``None`` if each image has its own.
        is_given: whether the user gave the range. Otherwise it follows from the training images.
        dim: rows whose image is not uniform, but spans less than `data.value_range.DIM` of the range.
        clipped: rows whose image has values outside the range.
        not_finite: rows whose image has NaN or infinite values.
        unsigned: rows whose image has no negative value, if other images have some.
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
    def of(cls, kind: str, values: np.ndarray, rows: np.ndarray, value_range: ValueRange) -> ValueRangeReport:
        """Report on images from their ``VALUE_STATS`` ``(n,)`` and row numbers ``(n,)``."""
        chosen = value_range.get(kind) if isinstance(value_range, Mapping) else value_range
        low, high = values["low"], values["high"]  # NaN without a finite value: comparisons are false
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
        """The attributes with rows counted, the description and the warnings."""
        rows = {name: len(getattr(self, name)) for name in ("dim", "clipped", "not_finite", "unsigned")}
        return asdict(self) | rows | {"description": self.describe(), "warnings": self.warnings()}

    def describe(self) -> str:
        """The ranges of the images, and how they are read."""
        numbers = {"integer": "integers of more than 8 bits", "float": "floating-point values"}[self.kind]
        counted = ", ".join(f"{count:,} within {low:g} to {high:g}" for low, high, count in self.within)
        read = "each is read in its own range"
        if self.chosen is not None:
            read = f"{self.chosen[0]:g} is read as black, {self.chosen[1]:g} as white"
            if not self.is_given and self.chosen not in USUAL:
                read += "; train with a narrower --data.value_range [LOW, HIGH] for more contrast"
        return f"{self.images:,} images hold {numbers} ({counted or 'no finite values'}); {read}"

    def warnings(self) -> list[str]:
        """Images that are probably read in the wrong range, with their rows."""
        alike = "store all images on one scale, or train with --data.value_range [LOW, HIGH]"
        found = {
            f"span less than an eighth of this range and become almost uniformly grey; {alike}": self.dim,
            f"have no negative values, while other images have some; {alike}": self.unsigned,
            "have values outside this range, which become black or white": [] if self.is_given else self.clipped,
            "hold NaN or infinite values; NaN becomes black": self.not_finite,
        }
        lines = [f"{len(rows):,} images ({name_rows(rows)}) {fault}" for fault, rows in found.items() if rows]
        if self.chosen is None and len(self.within) > 1:
            lines.append(f"images are read in {len(self.within)} different ranges; {alike}")
        return lines


def count_ranges(kind: str, values: np.ndarray) -> list[tuple[float, float, int]]:
    """Count images by their `range_of`, the most frequent first; ranges that are not `USUAL` are merged into one."""
    pairs = [pair for pair in zip(values["low"].tolist(), values["high"].tolist(), strict=True) if pair[0] <= pair[1]]
    ranges = [range_of(kind, *pair) for pair in pairs]
    other = [found for found in ranges if found not in USUAL]
    together = [(min(low for low, _ in other), max(high for _, high in other), len(other))] if other else []
    counts = Counter(found for found in ranges if found in USUAL)
    counted = [(low, high, number) for (low, high), number in counts.items()] + together
    return sorted(counted, key=lambda item: -item[2])


def report_value_ranges(
    values: np.ndarray, keys: Sequence[str | None], numbers: np.ndarray, value_range: ValueRange
) -> list[ValueRangeReport]:
    """One report for each kind of image in a table; images of 8 bits a channel need none.

    Args:
        values: ``VALUE_STATS`` of the image of each row ``(n,)``.
        keys: image key of each row; rows with the same key count once.
        numbers: row numbers.
        value_range: how the images are read.
    """
    deep = np.flatnonzero(values["kind"] >= 0).tolist()
    first = sorted({keys[i]: i for i in reversed(deep)}.values())
    found = []
    for number, kind in enumerate(KINDS):
        places = [i for i in first if values["kind"][i] == number]
        if places:
            found.append(ValueRangeReport.of(kind, values[places], numbers[places], value_range))
    return found
