"""The text of a row: one column, or a template of several."""

import re
from collections.abc import Mapping
from functools import lru_cache

from data.cells import cell_text
from data.errors import UserError
from data.messages import quote

TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
"""An escaped brace, a column name in braces, or an unmatched brace."""


def text_columns(text: str) -> list[str]:
    """Columns named by ``data.text``: a single column, or the columns of a template.

    Raises:
        UserError: unmatched braces, or a template without a column.
    """
    if "{" not in text:
        return [text]
    names = [name for _, name in parse_template(text) if name]
    if not names:
        raise UserError(
            f"data.text names no column: {quote(text)}; write columns in braces, '{{question}} {{report}}'."
        )
    return list(dict.fromkeys(names))


@lru_cache
def parse_template(text: str) -> tuple[tuple[str, str], ...]:
    """Parse a template into pairs (literal text, name of the column that follows it); the last name is empty.

    Everything between braces is the name. Unlike in `str.format`, dots, brackets, colons and exclamation marks have no
    special meaning.

    Raises:
        UserError: unmatched or empty braces.
    """
    pieces, literal, end = [], "", 0
    for match in TOKEN.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        if match[0] in ("{{", "}}"):
            literal += match[0][0]
        elif match[1]:
            pieces.append((literal, match[1]))
            literal = ""
        else:
            fault = "braces without a column" if match[0] == "{}" else f"a single {match[0]!r}"
            raise UserError(
                f"data.text is not a valid template, it has {fault}: {quote(text)}. Write a column as {{column}}, and "
                "a literal brace as {{ or }}."
            )
    return (*pieces, (literal + text[end:], ""))


def make_text(row: Mapping, text: str) -> str | None:
    """Text of a row; ``None`` if all its columns are empty."""
    values = {name: cell_text(row[name], name) or "" for name in text_columns(text)}
    if not any(value.strip() for value in values.values()):
        return None
    if "{" not in text:
        return values[text].strip()
    return "".join(literal + values.get(name, "") for literal, name in parse_template(text)).strip()
