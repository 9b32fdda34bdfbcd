"""Tables in CSV and TSV files; every cell stays the text that is written."""

import csv
from collections.abc import Iterator
from pathlib import Path

from datasets import Features, Value

from data.column_names import distinct_names
from data.encoding import check_text, open_text
from data.errors import UserError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
LONGEST_CELL = 2**31 - 1
"""Characters; the most that `csv` can be set to on every platform."""


def csv_columns(path: Path, separator: str) -> Features:
    """The columns of a file, all of it checked.

    Raises:
        UserError: names the place of what cannot be read.
    """
    check_text(path)
    check_separator(path, separator)
    lines = csv_lines(path, separator)
    header, first = next(lines, None), next(lines, None)
    if header is None:
        raise UserError(f"{path} is empty; expected a header line with the column names.")
    if first is None:
        raise UserError(f"{path} has no rows, only a header line.")
    for _ in lines:
        pass
    return Features({name: Value("string") for name in distinct_names(header)})


def csv_rows(path: Path, separator: str) -> Iterator[dict[str, str]]:
    """The rows by name of the column; a row that is short lacks its last columns."""
    lines = csv_lines(path, separator)
    names = distinct_names(next(lines, []))
    return (dict(zip(names, cells, strict=False)) for cells in lines)


def csv_lines(path: Path, separator: str) -> Iterator[list[str]]:
    """The cells of the header, then of each row; blank lines are skipped, empty cells beyond the header are cut off.

    Quotes are read strictly: one that is not closed would make one cell of several rows.
    """
    csv.field_size_limit(LONGEST_CELL)
    with open_text(path, newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        width = 0
        while (cells := next_line(reader, path)) is not None:
            if not cells or (width != 1 and len(cells) == 1 and not cells[0].strip()):
                continue
            width = width or len(cells)
            if any(cell.strip() for cell in cells[width:]):
                raise UserError(
                    f"Line {reader.line_num} of {path} has {len(cells)} cells, but the header names {width} columns. "
                    f"Put cells that hold a {SEPARATORS[separator]} in double quotes."
                )
            yield cells[:width]


def next_line(reader, path: Path) -> list[str] | None:
    """The cells of the next line, or of several where quoted cells hold line ends; ``None`` at the end.

    Raises:
        UserError: quotes that do not match.
    """
    start = reader.line_num + 1
    try:
        return next(reader, None)
    except csv.Error as error:
        raise UserError(
            f"Line {start} of {path} has a cell whose double quotes do not match ({error}). A cell that begins with a "
            'double quote ends with one; a double quote within such a cell is written twice, as in "a 5"" disk".'
        ) from error


def check_separator(path: Path, separator: str) -> None:
    """Refuse a file whose header is one column by this separator and several by another.

    Raises:
        UserError: names the separator that was found.
    """
    with open_text(path, newline="") as file:
        header = next((line for line in file if line.strip()), "")
    widths = {other: len(next(csv.reader([header], delimiter=other), [])) for other in SEPARATORS}
    best = max(widths, key=lambda other: widths[other])
    if widths[separator] > 1 or widths[best] < 2:
        return
    cure = {
        ",": "Name it .csv.",
        "\t": "Name it .tsv.",
    }.get(best, "Save it again with commas as .csv, or with tabs as .tsv.")
    raise UserError(
        f"The columns of {path} are separated by {SEPARATORS[best]}s, but a {path.suffix} file is read with "
        f"{SEPARATORS[separator]}s. {cure}"
    )
