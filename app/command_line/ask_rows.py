"""Many rows at once: the options and the steps of ``predict`` for a table, a folder, or shards of a table."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from tqdm.auto import tqdm

from app.command_line.loading import load_predictor
from app.command_line.reading import Reading, reading_options
from app.command_line.shard_answers import answer_shards
from app.inference.batch_predict import Answers, answer_cases, answer_rows, write_answers
from app.inference.predictor import Predictor
from app.inference.python_rows import AbsentColumnsError
from app.inference.shards import ANSWERS, find_shards
from app.inference.table_rows import SourceRows, open_rows
from app.output_paths import ready_file
from app.settings_parser import load_settings
from data.errors import UserError
from data.paths import expand_home, user_path
from data.remote_files import is_url, normal_url

if TYPE_CHECKING:
    from app.command_line.ask import Predict

SHOWN = 5
"""Number of reasons that are printed for unanswered rows. All rows are counted."""


def answer_many(options: Predict) -> None:
    """Write the answers to the rows of a source, or to those of many shards."""
    limit = {} if options.data.max_pixels is None else {"max_pixels": options.data.max_pixels}
    load = partial(load_predictor, options.model, options.trust_custom_encoder, **limit)
    if options.rows:
        answer_shards(find_shards(options.rows, expand_home(options.output)), load, partial(answer_shard_rows, options))
        return
    output = ready_output(options)
    predict_rows(load(), options, output)


def ready_output(options: Predict) -> str | Path:
    """Check that the answers to a source can be written; returns the path or the URL of their file.

    Raises:
        UserError: they cannot, or would replace the source.
    """
    if is_url(options.output):
        if Path(options.output).suffix.lower() not in ANSWERS:
            raise UserError(f"--output must end in {' or '.join(ANSWERS)}, got {options.output}.")
        if is_url(options.data.test) and normal_url(options.output) == normal_url(options.data.test):
            raise UserError(f"--output {options.output} would replace the rows themselves; name another file.")
        return options.output
    output, source = ready_file(user_path(options.output), ANSWERS), Path(options.data.test)
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"--output {output} would replace the rows themselves; name another file.")
    return output


def open_source(
    predictor: Predictor, source: str, data: Reading, text: str | None = None, pool: str | None = None
) -> SourceRows:
    """Open a source with the columns that the options name; print which columns of the training it lacks.

    Raises:
        UserError: a source that cannot be read; the message names the option that may help.
    """
    columns = {name: column for name in ("image", "text") if (column := getattr(data, name))}
    confined = bool(data.confine_images)
    try:
        rows = open_rows(
            predictor, source, text, data.image_root or None, columns=columns, confined=confined, pool=pool
        )
    except AbsentColumnsError as error:
        raise UserError(f"{error} Name them with --data.image COLUMN and --data.text COLUMN.") from error
    for setting, names in rows.absent.items():
        missing = ", ".join(map(repr, names))
        option = "" if setting.startswith("context.") else f" (--data.{setting} COLUMN)"
        print(f"{source} has no column {missing}: its rows are answered without {setting}{option}")
    return rows


def predict_rows(predictor: Predictor, options: Predict, output: str | Path) -> None:
    """Answer the rows of a source, write the answers and print how many there are; exit with code 1 without any."""
    rows, answers = answer_source(options, predictor, options.data.test)
    write_answers(answers.table, output)
    print_reasons(answers)
    print(f"{count_rows(rows, answers)}; wrote {output}")
    if len(answers.errors) == rows.number:
        sys.exit(1)
    if rows.has_labels:
        print(f"The rows have labels. To score the model on them:\n  {scoring_command(options)}")


def answer_source(options: Predict, predictor: Predictor, source: str) -> tuple[SourceRows, Answers]:
    """The rows of a source, and the answers to them or to their cases."""
    pool = options.data.pool or None
    rows = open_source(predictor, source, options.data, options.text or None, pool)
    answer = answer_cases if pool else answer_rows
    with tqdm(desc="answering", total=rows.number, unit="row") as bar:
        return rows, answer(predictor, rows, options.top_k, progress=lambda done: bar.update(done - bar.n))


def answer_shard_rows(options: Predict, predictor: Predictor, source: str) -> pd.DataFrame:
    """The answers to a shard; print how many there are.

    Raises:
        UserError: the shard cannot be read, or none of its rows can be answered.
    """
    rows, answers = answer_source(options, predictor, source)
    print_reasons(answers)
    if len(answers.errors) == rows.number:
        raise UserError("none of its rows can be answered.")
    print(f"{source}: {count_rows(rows, answers)}")
    return answers.table


def count_rows(rows: SourceRows, answers: Answers) -> str:
    """How many rows are answered, for the terminal."""
    failed = len(answers.errors)
    of_cases = f", as {len(answers.table):,} cases" if "case" in answers.table.columns else ""
    return f"{rows.number - failed:,} of {rows.number:,} rows answered{of_cases}, {failed:,} not"


def print_reasons(answers: Answers) -> None:
    """The most frequent reasons for unanswered rows, each with its number of rows and the first of them."""
    ranked = sorted(answers.reasons.values(), key=len, reverse=True)
    for rows in ranked[:SHOWN]:
        such = "" if len(rows) == 1 else f"{len(rows):,} rows, such as "
        print(f"not answered: {such}row {rows[0]}: {answers.errors[rows[0]]}", file=sys.stderr)
    if rest := sum(map(len, ranked[SHOWN:])):
        print(f"not answered: {rest:,} rows for other reasons; see the column error", file=sys.stderr)


def scoring_command(options: Predict) -> str:
    """The command that scores the rows that ``predict`` has answered."""
    reading, run = reading_options(options.data), Path(options.model) / "config.yaml"
    is_local = not is_url(options.data.test)
    if (
        is_local
        and "--data.image_root" not in reading
        and run.is_file()
        and load_settings(run).data.image_root is not None
    ):
        # Without it, paths would be relative to the folder of the run's own images.
        reading["--data.image_root"] = str(Path(options.data.test).parent)
    if options.data.pool:
        reading["--data.pool"] = options.data.pool
    trust = ["--trust_custom_encoder", "true"] if options.trust_custom_encoder else []
    command = ["python", "eval.py", options.model, "--data.test", options.data.test, *chain(*reading.items()), *trust]
    return shlex.join(command)
