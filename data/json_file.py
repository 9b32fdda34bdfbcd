"""Read JSON files: one object a line (JSON Lines), or a list of objects."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from datasets import Features, Json, Value

from data.cells import cell_text
from data.column_names import distinct_names
from data.encoding import check_text, open_text
from data.errors import UserError
from data.messages import quote

TYPES = {str: "string", int: "int64", float: "float64", bool: "bool"}
"""Python type of the cells of a column → Arrow type."""
NOT_SPACE = re.compile(r"\S")


def json_columns(path: Path) -> Features:
    """Check the whole file and return its columns.

    A column has the type of its cells if that is one of `TYPES`. Mixed types of these become text, see
    `data.cells.cell_text`. A column with lists or objects has type `Json`.

    Raises:
        UserError: the file cannot be read; names the place.
    """
    check_text(path)
    types: dict[str, set[type]] = {}
    number, row = 0, {}
    for row in json_objects(path):
        number += 1
        for name, value in row.items():
            found = types.setdefault(name, set())
            if value is not None:
                found.add(str if type(value) is int and value.bit_length() > 63 else type(value))
    if not number:
        raise UserError(f"{path} has no rows.")
    if number == 1 and all(isinstance(value, list | dict) for value in row.values()):
        raise UserError(
            f"{path} holds one object of columns; expected one object for each row, as pandas writes with "
            'to_json(orient="records", lines=True).'
        )
    for name in types:
        if (repeated := name.rpartition(" (column ")[0]) in types:
            raise UserError(f"{path} has objects with one key {quote(repeated)}, and objects with several.")
    return Features({name: column_type(found) for name, found in types.items()})


def column_type(found: set[type]) -> Value | Json:
    if not found <= set(TYPES):
        return Json()
    return Value(TYPES[found.pop()] if len(found) == 1 else "string")


def json_rows(path: Path, columns: Features) -> Iterator[dict]:
    """Rows as dictionaries, with cells of the column's type and ``None`` for missing keys."""
    for row in json_objects(path):
        yield {name: to_column(row.get(name), column) for name, column in columns.items()}


def to_column(value, column: Value | Json):
    if value is None:
        return None
    if isinstance(column, Json):
        return json.dumps(value)  # `Json` would parse a string such as "1e5" as a number
    return cell_text(value) if column.dtype == "string" else value


def json_objects(path: Path) -> Iterator[dict]:
    """The objects of a file in order: one a line, in a list, or spread over several lines.

    Raises:
        UserError: invalid JSON, values that are not objects, or lone surrogates; names the line.
    """
    with open_text(path) as file:
        first = next((line for line in file if line.strip()), "")
        by_line = is_object(first)
    with open_text(path) as file:
        texts = enumerate(file, 1) if by_line else [(1, file.read())]
        for line, text in texts:
            for value in parse_values(text, line, path):
                if not isinstance(value, dict):
                    raise UserError(f"{path} holds {quote(value)}; expected an object for each row.")
                yield value


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def parse_values(text: str, line: int, path: Path) -> Iterator:
    """JSON values in a text that starts at this line of the file; items of a list one by one."""
    decoder = json.JSONDecoder(object_pairs_hook=to_row)
    has_surrogates = "\\ud" in text.lower()
    place = 0
    while found := NOT_SPACE.search(text, place):
        try:
            value, place = decoder.raw_decode(text, found.start())
            if has_surrogates:
                json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{path} could not be read as {path.suffix}: line {line} or later holds half of a surrogate pair "
                f"({quote(error.object[error.start])}), which is not a character."
            ) from error
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError):
                line += error.lineno - 1
            reason = getattr(error, "msg", None) or str(error)
            raise UserError(f"{path} could not be read as {path.suffix}, line {line}: {reason}.") from error
        yield from value if isinstance(value, list) else [value]


def to_row(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object as a dictionary with unique keys, see `distinct_names`."""
    row = dict(pairs)
    if len(row) == len(pairs) and "" not in row:
        return row
    return dict(zip(distinct_names([name for name, _ in pairs]), (value for _, value in pairs), strict=True))
