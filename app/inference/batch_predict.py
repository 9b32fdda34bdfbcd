"""Answer many pairs: a table, a folder of images or a zip archive in, a table of answers out, with errors by row."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from app.atomic_write import replacing
from app.inference.predictor import HELD_PIXELS, Predictor
from app.inference.table_rows import SourceRow, SourceRows, open_rows
from data import Example
from data.cells import is_clean
from data.errors import UserError
from data.messages import excerpt_path, quote
from data.remote_files import is_url, upload


@dataclass(frozen=True)
class Answers:
    """Answers to the rows of a source.

    Attributes:
        table: one line per row or per case, as `answer_table` and `answer_cases` describe it.
        reasons: why rows are not answered → their numbers. Names of images are left out, so that rows with the same
            fault are counted together.
        errors: number of a row that is not answered → its error.
    """

    table: pd.DataFrame
    reasons: dict[str, list[int]]
    errors: dict[int, str]


def answer_table(
    predictor: Predictor,
    source: str | Path,
    text: str | None = None,
    image_root: str | Path | None = None,
    batch_size: int = 32,
    progress: Callable[[int], object] | None = None,
    max_rows: int | None = None,
    cache_dir: str | Path | None = None,
    top_k: int = 3,
    columns: dict[str, str] | None = None,
    confined: bool = True,
) -> pd.DataFrame:
    """Answer every row of a source.

    Args:
        source: a table with the columns of the training (one of image and text may be missing), any other source of
            `data.sources.load_source`, or a folder of images.
        text: the text for every image of a folder, or of a table without texts.
        image_root: folder that image paths are relative to; by default that of the table.
        progress: called with the number of rows that are done.
        max_rows: a source with more is refused.
        cache_dir: cache folder of `datasets`; its own default if not given.
        top_k: labels per row; a model with fewer gives all of them.
        columns: ``image`` and ``text``, if they differ from those of the training.
        confined: refuse image paths that lead out of ``image_root``, by .. or by links, as a stranger's table might
            contain; the owner of a table may switch it off.

    Returns:
        ``row`` (its number, from 0), ``image`` (its path, as the source has it), ``text``, ``prediction``,
        ``probability`` (of the whole prediction), ``sure``, ``error``, and the most probable labels, best first:
        ``label_1``, ``probability_1``, …, ``label_K``, ``probability_K``. A row that cannot be answered has only the
        first three and ``error``.

    Raises:
        UserError: a source that cannot be read, without the columns, without rows or with too many; or a batch size
            below 1.
    """
    rows = open_rows(predictor, source, text, image_root, max_rows, cache_dir, columns, confined)
    return answer_rows(predictor, rows, top_k, batch_size, progress).table


def answer_rows(
    predictor: Predictor,
    rows: SourceRows,
    top_k: int = 3,
    batch_size: int = 32,
    progress: Callable[[int], object] | None = None,
) -> Answers:
    """Answer rows as `answer_table` does; a row that cannot be answered has its error."""
    found, faults = [], Faults()
    for row, answer in ask_rows(predictor, rows, batch_size, progress):
        if isinstance(answer, UserError):
            found.append(row_cells(row) | {"error": faults.add(row, answer)})
        else:
            found.append(row_cells(row) | answer_cells(predictor, answer, top_k))
    names = ["row", "image", "text", "prediction", "probability", "sure", "error"]
    return Answers(pd.DataFrame(found, columns=names + names_of_best(predictor, top_k)), faults.reasons, faults.errors)


def answer_cases(
    predictor: Predictor,
    rows: SourceRows,
    top_k: int = 3,
    batch_size: int = 32,
    progress: Callable[[int], object] | None = None,
) -> Answers:
    """Answer each case once, by the mean of the probabilities of its rows.

    A row without a case is a case of its own. Rows that cannot be answered are left out of their case.

    Returns:
        one line per case, in the order of their first rows: ``case`` (``None`` without one), ``row`` (number of its
        first row), ``rows`` (how many), ``answered`` (how many of them), the columns of the answer as `answer_table`
        has them, and ``error``, that of its first row that cannot be answered.
    """
    cases: dict[str | int, dict[str, object]] = {}
    rows_of, answered = Counter[str | int](), Counter[str | int]()
    sums, faults = dict[str | int, np.ndarray](), Faults()
    for row, answer in ask_rows(predictor, rows, batch_size, progress):
        key = row.row if row.case is None else row.case
        name = None if row.case is None else printable(row.case)
        cells = cases.setdefault(key, {"case": name, "row": row.row})
        rows_of[key] += 1
        if isinstance(answer, UserError):
            told = faults.add(row, answer)
            cells.setdefault("error", f"row {row.row}: {told}")
        else:
            answered[key] += 1
            sums[key] = sums.get(key, 0.0) + answer.astype(np.float64)
    for key, cells in cases.items():
        cells |= {"rows": rows_of[key], "answered": answered[key]}
        if key in sums:
            cells |= answer_cells(predictor, (sums[key] / answered[key]).astype(np.float32), top_k)
    names = ["case", "row", "rows", "answered", "prediction", "probability", "sure", "error"]
    table = pd.DataFrame(list(cases.values()), columns=names + names_of_best(predictor, top_k))
    return Answers(table, faults.reasons, faults.errors)


@dataclass
class Faults:
    """Rows that cannot be answered, as `Answers` has them."""

    reasons: dict[str, list[int]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)

    def add(self, row: SourceRow, error: UserError) -> str:
        """Record the error of a row, and return it as a text."""
        self.reasons.setdefault(name_fault(error, row), []).append(row.row)
        self.errors[row.row] = printable(str(error))
        return self.errors[row.row]


def ask_rows(
    predictor: Predictor, rows: SourceRows, batch_size: int, progress: Callable[[int], object] | None
) -> Iterator[tuple[SourceRow, np.ndarray | UserError]]:
    """Each row with its class probabilities ``(C,)``, or the error for which it cannot be answered.

    Raises:
        UserError: a batch size below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}.")
    waiting, done = iter(rows.rows), 0
    while block := list(islice(waiting, batch_size)):
        pairs = ((row.image, row.text, row.contexts) for row in block)
        found: list[np.ndarray | UserError] = []
        while answers := ask_some(predictor, pairs):
            found += answers
        yield from zip(block, found, strict=True)
        done += len(block)
        if progress is not None:
            progress(done)


def ask_some(predictor: Predictor, pairs: Iterator[tuple]) -> list[np.ndarray | UserError]:
    """Answer as many of the next pairs as have up to `HELD_PIXELS` pixels of pictures, as `ask_rows` does."""
    prepared = predictor.prepare(pairs, HELD_PIXELS)
    found = iter(predictor.probabilities([example for example in prepared if isinstance(example, Example)]))
    return [example if isinstance(example, UserError) else next(found) for example in prepared]


def names_of_best(predictor: Predictor, top_k: int) -> list[str]:
    """The columns of the most probable labels."""
    places = range(1, min(top_k, len(predictor.labels)) + 1)
    return [name for place in places for name in (f"label_{place}", f"probability_{place}")]


def row_cells(row: SourceRow) -> dict[str, object]:
    """The cells that identify a row."""
    name, text = (cell if cell is None else printable(cell) for cell in (row.name, row.text))
    return {"row": row.row, "image": name, "text": text}


def answer_cells(predictor: Predictor, probabilities: np.ndarray, top_k: int) -> dict[str, object]:
    """The cells of an answer with class probabilities ``(C,)``."""
    answer = predictor.to_predictions(probabilities[None], top_k)[0]
    cells: dict[str, object] = {
        "prediction": predictor.label_format.join(answer.labels),
        "probability": answer.confidence,
        "sure": answer.is_sure,
    }
    for place, best in enumerate(answer.answers, start=1):
        cells |= {f"label_{place}": best["label"], f"probability_{place}": best["probability"]}
    return cells


def name_fault(error: UserError, row: SourceRow) -> str:
    """Why a row is not answered, without the name of its image."""
    message = str(error)
    if isinstance(row.image, str):
        message = message.replace(row.image, "…").replace(excerpt_path(row.image), "…")
    if row.name is not None:
        message = message.replace(quote(row.name), "…")
    return printable(message)


def printable(text: str) -> str:
    """A text that a UTF-8 file can hold: NUL characters and lone surrogates are escaped."""
    return text if is_clean(text) else "".join(char if is_clean(char) else repr(char)[1:-1] for char in text)


def write_answers(table: pd.DataFrame, target: str | Path) -> None:
    """Write what `answer_table` or `answer_cases` returns as ``.csv`` or ``.parquet``, with the same content.

    A crash leaves the whole file or none, as far as the storage of a URL stores files in one step.

    Args:
        target: path or URL.

    Raises:
        UserError: the file cannot be written.
    """
    if is_url(url := str(target)):
        with tempfile.TemporaryDirectory() as folder:
            write_answers(table, file := Path(folder, f"answers{Path(url).suffix}"))
            upload(file, url)
        return
    path = Path(target)
    try:
        with replacing(path) as file:
            write_table(table, file, path.suffix.lower())
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error


def write_table(table: pd.DataFrame, file: Path, ending: str) -> None:
    """Write answers in the format of an ending."""
    if ending == ".csv":
        table.to_csv(file, index=False)
        return
    types = {"row": pa.int64(), "rows": pa.int64(), "answered": pa.int64(), "sure": pa.bool_()}
    types |= {name: pa.float64() for name in table.columns if name.startswith("probability")}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in table.columns])
    table.to_parquet(file, index=False, schema=schema)  # an empty column has its type, too
