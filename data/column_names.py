"""What the columns of a table are called, and whether those that settings name are there."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from data.errors import UserError
from data.labels import NoLabelsError
from data.messages import enumerate_names, quote


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names that are each there once: "text (column 2)" for a repeated one, "column 4" for an empty one.

    A repeated name is left to none of its columns, so that a setting which names it can be refused.
    """
    counts = Counter(names)
    return [
        name
        if name.strip() and counts[name] == 1
        else f"{name} (column {place})"
        if name.strip()
        else f"column {place}"
        for place, name in enumerate(names, 1)
    ]


def require_columns(found: Sequence[str], wanted: dict[str, list[str]], source: str) -> None:
    """Check that the columns a setting names are there.

    Args:
        found: columns of the source.
        wanted: setting (``image``, ``text``, ``label``) → the columns it names.

    Raises:
        UserError: names the missing columns, those found, and the nearest name; or a name that several columns have.
        NoLabelsError: likewise, where there is no ``label``.
    """
    for setting, names in wanted.items():
        refuse_repeated(found, setting, names, source)
        for name in names:
            if name not in found:
                near = difflib.get_close_matches(name, found, n=1, cutoff=0.5)
                raise (NoLabelsError if setting == "label" else ValueError)(
                    f"{source} has no column {quote(name)}; it has [{enumerate_names(found)}]. "
                    + (f"Did you mean {quote(near[0])}? " if near else "")
                    + f"Name the right one with --data.{setting} COLUMN."
                )


def refuse_repeated(found: Sequence[str], setting: str, names: Iterable[str], source: str) -> None:
    """Refuse a name that several columns of the source have, see `distinct_names`.

    Raises:
        UserError: tells how each of them can be named.
    """
    for name in names:
        same = [other for other in found if re.fullmatch(re.escape(name) + r" \(column \d+\)", other)]
        if name not in found and same:
            raise UserError(
                f"{source} has columns of the same name: [{quote(name)}]. Rename all but one, or choose one by its "
                f"place: --data.{setting} with {' or '.join(map(quote, same))}."
            )
