"""Answer many pairs: a table, a folder of images or a zip archive in, a table of answers out, with errors by row."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa

from app.inference.predictor import Prediction, Predictor
from app.inference.table_rows import SourceRow, SourceRows, open_rows
from data import Example
from data.cells import is_clean
from data.errors import UserError
from data.messages import excerpt_path, quote


@dataclass(frozen=True)
class Answers:
    """Answers to the rows of a source.

    Attributes:
        table: one line per row, as `answer_table` describes it.
        reasons: why rows are not answered → their numbers. Names of images are left out, so that rows with the same
            fault are counted together.
    """

    table: pd.DataFrame
    reasons: dict[str, list[int]]


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
        UserError: a source that cannot be read, without the columns, without rows or with too many.
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
    waiting, found, reasons = iter(rows.rows), [], defaultdict(list)
    while block := list(islice(waiting, batch_size)):
        prepared = predictor.prepare((row.image, row.text) for row in block)
        examples = [example for example in prepared if isinstance(example, Example)]
        answers = iter(predictor.predict_examples(examples, top_k))
        for row, example in zip(block, prepared, strict=True):
            if isinstance(example, UserError):
                reasons[name_fault(example, row)].append(row.row)
                found.append(row_cells(row) | {"error": printable(str(example))})
            else:
                found.append(row_cells(row) | answer_cells(predictor, next(answers)))
        if progress is not None:
            progress(len(found))
    names = ["row", "image", "text", "prediction", "probability", "sure", "error"]
    for place in range(1, min(top_k, len(predictor.labels)) + 1):
        names += [f"label_{place}", f"probability_{place}"]
    return Answers(pd.DataFrame(found, columns=names), dict(reasons))


def row_cells(row: SourceRow) -> dict[str, object]:
    """The cells that identify a row."""
    name, text = (cell if cell is None else printable(cell) for cell in (row.name, row.text))
    return {"row": row.row, "image": name, "text": text}


def answer_cells(predictor: Predictor, answer: Prediction) -> dict[str, object]:
    """The cells of an answer."""
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


def write_answers(table: pd.DataFrame, path: Path) -> None:
    """Write what `answer_table` returns as ``.csv`` or ``.parquet``, with the same content.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        if path.suffix.lower() == ".csv":
            table.to_csv(path, index=False)
        else:
            types = {"row": pa.int64(), "sure": pa.bool_()}
            types |= {name: pa.float64() for name in table.columns if name.startswith("probability")}
            schema = pa.schema([(name, types.get(name, pa.string())) for name in table.columns])
            table.to_parquet(path, index=False, schema=schema)  # an empty column has its type, too
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error
