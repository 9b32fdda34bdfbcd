"""Few-shot training: a few rows of each class."""

from __future__ import annotations

from collections import Counter

import numpy as np

from data.errors import UserError
from data.label_format import LabelFormat
from data.rows import Rows


def draw_shots(rows: Rows, form: LabelFormat, shots: int, seed: int) -> tuple[Rows, str]:
    """Draw up to ``shots`` rows of each class, in their order; more shots of the same seed contain those of fewer.

    A row with several classes is drawn if any of them still needs rows, so frequent classes may get more. Rows of no
    class count as a class.

    Returns:
        the rows, and a sentence about them.

    Raises:
        UserError: a stream, whose classes are not known before it is read.
    """
    if rows.is_stream:
        raise UserError("data.shots draws rows by their class, which a stream does not allow: leave out one of both.")
    found: Counter[str] = Counter()
    chosen = []
    for i in np.random.default_rng(seed).permutation(len(rows)).tolist():
        names = form.main_names(rows.labels[i]) or [""]  # rows of no class are drawn like a class
        if any(found[name] < shots for name in names):
            found.update(names)
            chosen.append(i)
    drawn = rows.select(sorted(chosen))
    few = sum(number < shots for number in found.values())
    short = f"; {few:,} of {len(found):,} classes have fewer" if few else ""
    return drawn, f"{shots} shots: {len(drawn):,} of {len(rows):,} training rows, drawn by the seed{short}"
