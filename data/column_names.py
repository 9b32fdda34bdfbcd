"""Names of columns: make them unique, and check that those in the settings exist."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from data.errors import UserError
from data.labels import NoLabelsError
from data.messages import enumerate_names, quote


class RepeatedColumnsError(UserError):
    """Several columns have the name that a setting chooses.

    Args:
        column: that name.
    """

    def __init__(self, message: str, column: str):
        super().__init__(message)
        self.column = column


def distinct_names(names: Sequence[str]) -> list[str]:
    """Make column names unique: "text (column 2)" for a repeated name, "column 4" for an empty one.

    All columns with a repeated name are renamed, so that `refuse_repeated` can reject a setting with that name. A new
    name that another column has already is a repeated name too.
    """
    counts = Counter(names)

    def unique(name: str, number: int) -> str:
        if not name.strip():
            return f"column {number}"
        return name if counts[name] == 1 else f"{name} (column {number})"

    renamed = [unique(name, number) for number, name in enumerate(names, 1)]
    return renamed if renamed == list(names) else distinct_names(renamed)


def require_columns(found: Sequence[str], wanted: dict[str, list[str]], source: str) -> None:
    """Check that the columns named by settings exist.

    Args:
        found: columns of the source.
        wanted: setting (``image``, ``text``, ``label``) → the columns it names.

    Raises:
        NoLabelsError: the ``label`` column is missing.
        UserError: another column is missing, or several columns have the name. The message lists the columns and
            suggests the most similar name.
    """
    for setting, names in wanted.items():
        refuse_repeated(found, setting, names, source)
        for name in names:
            if name not in found:
                near = difflib.get_close_matches(name, found, n=1, cutoff=0.5)
                raise (NoLabelsError if setting == "label" else UserError)(
                    f"{source} has no column {quote(name)}; it has [{enumerate_names(found)}]. "
                    + (f"Did you mean {quote(near[0])}? " if near else "")
                    + f"Name the right one with --data.{setting} COLUMN."
                )


def refuse_repeated(found: Sequence[str], setting: str, names: Iterable[str], source: str) -> None:
    """Refuse a name that several columns share, see `distinct_names`.

    Raises:
        RepeatedColumnsError: says how to name each of these columns.
    """
    for name in names:
        same = [other for other in found if re.fullmatch(re.escape(name) + r"( \(column \d+\))+", other)]
        if name not in found and same:
            raise RepeatedColumnsError(
                f"{source} has columns of the same name: [{quote(name)}]. Rename all but one, or choose one by its "
                f"position: --data.{setting} with {' or '.join(map(quote, same))}.",
                name,
            )
