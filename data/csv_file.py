"""Read CSV and TSV files. Every cell is a string."""

import csv
from collections.abc import Iterator
from pathlib import Path

from datasets import Features, Value

from data.column_names import distinct_names
from data.encoding import check_text, open_text
from data.errors import UserError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
LONGEST_CELL = 2**31 - 1
"""Characters; the largest limit that `csv` accepts on every platform."""


def csv_columns(path: Path, separator: str) -> Features:
    """Check the whole file and return its columns.

    Raises:
        UserError: the file cannot be read; names the place.
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
    """Rows as dictionaries; short rows lack their last columns."""
    lines = csv_lines(path, separator)
    names = distinct_names(next(lines, []))
    return (dict(zip(names, cells, strict=False)) for cells in lines)


def csv_lines(path: Path, separator: str) -> Iterator[list[str]]:
    """Cells of the header, then of each row. Skips blank lines, and empty cells after the last column.

    Quotes are parsed strictly, because an unclosed quote would merge several rows into one cell.

    Raises:
        UserError: a row with more cells than the header, or unmatched quotes; names the line.
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
    """Cells of the next row, which may span several lines; ``None`` at the end of the file.

    Raises:
        UserError: unmatched quotes; names the line.
    """
    start = reader.line_num + 1
    try:
        return next(reader, None)
    except csv.Error as error:
        raise UserError(
            f"Line {start} of {path} has a cell whose double quotes do not match ({error}). A cell that starts with a "
            'double quote must end with one. Write a double quote inside such a cell twice, as in "a 5"" disk".'
        ) from error


def check_separator(path: Path, separator: str) -> None:
    """Check that the header has several columns with this separator, if it has several with another one.

    Raises:
        UserError: names the separator of the file.
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
