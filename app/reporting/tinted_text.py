"""A text in pieces, with the words that matter to an answer marked; of a long text, the parts around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MATTERS = 0.01
"""Smallest change of the probability at which a word is marked."""
MAX_WORDS = 80
"""Longer texts are shown around the words that matter."""
MAX_MARKED = 15
"""Marked words of a long text, those that change the probability most."""
AROUND = 6
"""Words that are shown before and after a marked one in a long text."""


@dataclass(frozen=True)
class Piece:
    """A part of a text.

    Attributes:
        effect: probability that the answer loses without this word; ``None`` for text that is not marked.
    """

    text: str
    effect: float | None = None


def tint(text: str, words: Sequence[str], effects: np.ndarray) -> list[Piece]:
    """Pieces of a text in order, with "…" in place of the parts of a long text that are left out.

    Args:
        words: words of the text in order; the text may go on after the last one.
        effects: effect of each word ``(W,)``.
    """
    is_long = len(words) > MAX_WORDS
    marked = [int(word) for word in np.argsort(-np.abs(effects), kind="stable") if abs(effects[word]) >= MATTERS]
    marked = sorted(marked[:MAX_MARKED] if is_long else marked)
    found = find_words(text, words)
    if found is None:
        text = " ".join(words)
        found = find_words(text, words)
        assert found is not None
    starts, ends = found
    spans = [(0, len(text))]
    if is_long:
        spans = []
        for word in marked or [0]:
            start, end = starts[max(0, word - AROUND)], ends[min(len(words) - 1, word + AROUND)]
            if spans and start <= spans[-1][1] + 1:
                start = spans.pop()[0]
            spans.append((start, end))
    pieces = [] if spans[0][0] == 0 else [Piece("… ")]
    for start, stop in spans:
        for word in marked:
            if start <= starts[word] < stop:
                pieces += [Piece(text[start : starts[word]]), Piece(text[starts[word] : ends[word]], effects[word])]
                start = ends[word]
        pieces += [Piece(text[start:stop]), Piece(" … ")]
    if spans[-1][1] == len(text):
        pieces.pop()
    return [piece for piece in pieces if piece.text]


def find_words(text: str, words: Sequence[str]) -> tuple[list[int], list[int]] | None:
    """Start and end of each word in the text; ``None`` if a word is not written there, as the tokens of some models."""
    starts, ends, place = [], [], 0
    for word in words:
        start = text.find(word, place)
        if start < 0:
            return None
        place = start + len(word)
        starts.append(start)
        ends.append(place)
    return starts, ends
