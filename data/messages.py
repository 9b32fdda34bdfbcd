"""How messages show what came from a user's files: never more of it than a line holds."""

from collections.abc import Iterable, Sequence

MOST = 80
"""Characters of one cell, name or path that a message shows."""
SHOWN = 5
"""Rows with one fault that a message names; it counts them all."""


def excerpt(text: str, most: int = MOST) -> str:
    """A text, or the beginning of a longer one and "…": at most ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def excerpt_path(path: str, root: str = "") -> str:
    """A path, of which the part below ``root`` is at most `MOST` characters: its beginning, "…" and its end."""
    start = f"{root}/" if root and path.startswith(f"{root}/") else ""
    path = path.removeprefix(start)
    half = (MOST - 1) // 2
    return start + (path if len(path) <= MOST else f"{path[:half]}…{path[-half:]}")


def quote(value: object, most: int = MOST) -> str:
    """A value as Python writes it, shortened as by `excerpt`."""
    return excerpt(repr(value), most)


def enumerate_names(names: Iterable[object], shown: int = 20) -> str:
    """The first names, quoted, and the number of the others."""
    names = list(names)
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(quote(name) for name in names[:shown]) + more


def name_rows(rows: Sequence[int]) -> str:
    """The first few rows of a table, by number."""
    return "row " + ", ".join(map(str, rows[:SHOWN])) + (", …" if len(rows) > SHOWN else "")
