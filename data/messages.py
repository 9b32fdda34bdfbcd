"""Format values for messages: shorten long ones, and give shares enough digits to differ."""

from collections.abc import Iterable, Sequence

MAX_CHARS = 80
"""Characters of one cell, name or path in a message."""
MAX_ROWS = 5
"""Rows with the same fault that a message lists; it counts all of them."""


def excerpt(text: str, max_chars: int = MAX_CHARS) -> str:
    """Truncate a text to ``max_chars`` characters; a truncated text ends in "…"."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def excerpt_path(path: str, root: str = "") -> str:
    """Shorten a path in the middle: the part below ``root`` keeps at most `MAX_CHARS` characters."""
    start = f"{root}/" if root and path.startswith(f"{root}/") else ""
    path = path.removeprefix(start)
    half = (MAX_CHARS - 1) // 2
    return start + (path if len(path) <= MAX_CHARS else f"{path[:half]}…{path[-half:]}")


def quote(value: object, max_chars: int = MAX_CHARS) -> str:
    """The `repr` of a value, truncated by `excerpt`."""
    return excerpt(repr(value), max_chars)


def enumerate_names(names: Iterable[object], shown: int = 20) -> str:
    """The first ``shown`` names, quoted, and the number of the others."""
    names = list(names)
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(quote(name) for name in names[:shown]) + more


def name_rows(rows: Sequence[int], shown: int = MAX_ROWS) -> str:
    """The numbers of the first ``shown`` rows."""
    return "row " + ", ".join(map(str, rows[:shown])) + (", …" if len(rows) > shown else "")


def percents(*shares: float) -> list[str]:
    """Shares in percent with one digit, or with up to five if it takes them to tell different shares apart."""
    for digits in range(1, 6):
        found = [f"{share:.{digits}%}" for share in shares]
        if len(set(found)) == len(set(shares)):
            break
    return found
