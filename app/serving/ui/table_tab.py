"""The tab for the rows of a table."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gradio as gr
import pandas as pd

from app.inference.batch_predict import answer_table
from app.inference.predictor import Predictor
from app.serving.archive import unpacked
from app.serving.engine import Engine
from app.serving.ui.uploads import make_answers_folder
from data.column_names import RepeatedColumnsError
from data.errors import UserError
from data.messages import quote

MAX_ROWS = 20_000
"""Maximum number of rows in a table."""
NO_IMAGES = "A table alone has no images. Upload a zip of the table and its images."
"""Error of the rows of a table that name an image."""
NUM_PREVIEW = 50
"""Number of rows that the page shows."""
PROGRESS = gr.Progress()
"""gradio passes a progress bar to functions with this default value."""


def table_tab(engine: Engine) -> None:
    """Build the tab: a table, or an archive of a table and its images, becomes a table of answers."""
    predictor = engine.predictor
    columns = {"image": "image", "text": "text"} | (predictor.model.config.columns or {})
    gr.Markdown(
        f"Upload a **CSV** with the column `{columns['text']}`, or a **zip** of one table and the images in its column "
        f"`{columns['image']}`. Rows with errors are reported; all others are answered."
    )
    file = gr.File(label="CSV or zip", file_types=[".csv", ".tsv", ".jsonl", ".zip"], elem_id="rows")
    start = gr.Button("Answer all rows", variant="primary", elem_id="start")
    summary = gr.Markdown(elem_id="summary")
    table = gr.Dataframe(label="First answers", interactive=False, visible=False)
    answers = gr.File(label="All answers", visible=False, elem_id="answers")

    def run_all(path: str | None, progress=PROGRESS) -> tuple:
        if path is None:
            raise gr.Error("Choose a file first.", print_exception=False)

        def report(rows: int) -> None:
            if time.monotonic() > engine.deadline:
                raise UserError("The server is stopping. Try another one, or later.")
            progress((rows, None), unit="rows")

        try:
            found = answer_file(predictor, Path(path), report)
        except UserError as error:
            raise gr.Error(str(error).replace(path, "The file"), print_exception=False) from None
        return (
            summarize(found),
            gr.update(value=found.head(NUM_PREVIEW), visible=True),
            gr.update(value=write_answers_file(found), visible=True),
        )

    start.click(run_all, file, [summary, table, answers], api_name="answer_rows", concurrency_limit=1)


def summarize(answers: pd.DataFrame) -> str:
    """How many rows are answered, as Markdown."""
    invalid = int(answers["error"].notna().sum())
    text = f"**{len(answers) - invalid:,} of {len(answers):,} rows answered.**"
    return text + (f" {invalid:,} rows have an error, see the column `error`." if invalid else "")


def write_answers_file(answers: pd.DataFrame) -> str:
    """Write the answers as CSV where the page can serve the file, for as long as uploads are kept."""
    output = make_answers_folder() / "answers.csv"
    answers.to_csv(output, index=False)
    return str(output)


def answer_file(predictor: Predictor, path: Path, on_progress: Callable[[int], object]) -> pd.DataFrame:
    """Answer an uploaded table or archive. Errors say what to do on the page, and name no folder of the server.

    A table without an archive has no images: its paths are looked up in an empty folder.

    Args:
        on_progress: called with the number of answered rows.

    Raises:
        UserError: a file that cannot be read, without the columns, without rows or with too many.
    """
    # Windows cannot delete the cache while a table in it is memory-mapped.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache, tempfile.TemporaryDirectory() as empty:
        answer = partial(answer_table, predictor, progress=on_progress, max_rows=MAX_ROWS, cache_dir=cache)
        try:
            if path.suffix.lower() == ".zip":
                with unpacked(path) as table:
                    answers, folder = answer(table), f"{table.parent}{os.sep}"
                    errors = answers["error"].map(lambda error: error.replace(folder, ""), na_action="ignore")
                    return answers.assign(error=errors)
            answers = answer(path, image_root=empty)
            has_path = answers["image"].notna() & answers["error"].notna()
            return answers.assign(error=answers["error"].mask(has_path, NO_IMAGES))
        except RepeatedColumnsError as error:
            raise UserError(f"The file has several columns {quote(error.column)}. Rename all but one.") from error
