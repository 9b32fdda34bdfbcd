"""The tab that answers the rows of a table."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import gradio as gr
import pandas as pd

from app.inference.batch_predict import answer_table
from app.inference.predictor import Predictor
from app.serving.archive import unpacked
from app.serving.engine import Engine
from app.serving.ui.uploads import ANSWERS, forget_old_answers, make_upload_folder
from data.errors import UserError

MAX_ROWS = 20_000
"""Rows of a table that the page answers."""
PROGRESS = gr.Progress()
"""By this default value gradio knows that a function tells how far it is."""


def table_tab(engine: Engine) -> None:
    """A table of texts, or an archive with a table and its pictures; a table of answers back."""
    predictor = engine.predictor
    columns = {"image": "image", "text": "text"} | (predictor.model.config.columns or {})
    gr.Markdown(
        f"A **CSV** with the column `{columns['text']}`, or a **zip** with one table and the pictures that its column "
        f"`{columns['image']}` names. A faulty row is told and the others are answered."
    )
    file = gr.File(label="CSV or zip", file_types=[".csv", ".tsv", ".jsonl", ".zip"], elem_id="rows")
    start = gr.Button("Answer all rows", variant="primary", elem_id="start")
    told = gr.Markdown(elem_id="told")
    table = gr.Dataframe(label="The first answers", interactive=False, visible=False)
    answers = gr.File(label="All answers", visible=False, elem_id="answers")

    def run_all(path: str | None, progress=PROGRESS) -> tuple:
        if path is None:
            raise gr.Error("Choose a file first.", print_exception=False)

        def tell(rows: int) -> None:
            if time.monotonic() > engine.deadline:
                raise UserError("The server is stopping; ask another, or later.")
            progress((rows, None), unit="rows")

        try:
            found = answer_file(predictor, Path(path), tell)
        except UserError as error:
            raise gr.Error(str(error).replace(path, "The file"), print_exception=False) from None
        forget_old_answers()
        output = Path(tempfile.mkdtemp(prefix=ANSWERS, dir=make_upload_folder())) / "answers.csv"
        found.to_csv(output, index=False)
        faulty = int(found["error"].notna().sum())
        summary = f"**{len(found) - faulty:,} of {len(found):,} rows answered**" + (
            f", {faulty:,} not; the column `error` says why." if faulty else "."
        )
        return summary, gr.update(value=found.head(50), visible=True), gr.update(value=str(output), visible=True)

    start.click(run_all, file, [told, table, answers], api_name="answer_rows", concurrency_limit=1)


def answer_file(predictor: Predictor, path: Path, told) -> pd.DataFrame:
    """The answers to an uploaded table or archive; of a table alone no image is read, whatever paths it names."""
    # Windows does not delete the cache while a table in it is mapped
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache, tempfile.TemporaryDirectory() as nowhere:
        limits = {"told": told, "max_rows": MAX_ROWS, "cache_dir": cache}
        if path.suffix.lower() == ".zip":
            with unpacked(path) as table:
                return answer_table(predictor, table, **limits)
        return answer_table(predictor, path, image_root=nowhere, **limits)
