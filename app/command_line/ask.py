"""The commands that ask a trained model: ``predict`` and ``explain``."""

import shlex
import sys
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm.auto import tqdm

from app.command_line.commands import positional
from app.command_line.reading import Reading, reading_options
from app.command_line.shard_answers import answer_shards
from app.explanation.drawn_explanations import explanation_figure, matrices_figure
from app.explanation.evidence import Method
from app.inference.batch_predict import Answers, answer_cases, answer_rows, write_answers
from app.inference.load import find_model
from app.inference.predictor import Predictor
from app.inference.python_rows import AbsentColumnsError
from app.inference.shards import ANSWERS, find_shards
from app.inference.table_rows import SourceRows, open_rows
from app.output_paths import ready_file
from app.settings_parser import load_settings
from data.errors import UserError
from data.paths import expand_home, user_path
from data.remote_files import is_url, normal_url
from models import ImageTextConfig

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")
"""File formats that ``explain`` writes."""
SHOWN = 5
"""Number of reasons that are printed for unanswered rows. All rows are counted."""


@dataclass
class AnsweredRows(Reading):
    """Many pairs at once; columns are read as for the training by default."""

    test: str = ""
    """Rows to answer: a table, a folder of images with --text for all of them, or any other source of train.py."""
    pool: str = ""
    """Column whose rows share one answer, such as the case: each case is answered once, by the mean of the
    probabilities of its rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.test = expand_home(self.test)


@dataclass
class Predict:
    """The most probable labels of an image and a text, or of many.

    python -m app predict runs/quickstart --image picture.png --text "what color is the circle?"
    python -m app predict runs/quickstart --data.test rows.csv --output answers.parquet
    python -m app predict runs/mine --data.test rows.csv --data.pool case --output answers.csv
    python -m app predict runs/mine --rows 'shards/part-*.parquet' --output answers
    """

    model: str = positional()
    """A run folder, a model folder or a Hub id."""
    image: str = ""
    """Image file; without it the question has no image."""
    text: str = ""
    """Text; without it the question has no text."""
    context: dict[str, str] = field(default_factory=dict)
    """Further contexts of the model by name: --context.prior old.png --context.patient '{age: 61, sex: F}'."""
    top_k: PositiveInt = 3
    """Number of labels."""
    rows: str = ""
    """Pattern of many tables, in quotes: each is answered into its own file in the folder --output, unless that file
    exists or another process is answering it. See docs/serving.md."""
    output: str = "answers.parquet"
    """File for the answers to many pairs, .parquet or .csv, with --top_k labels a row; with --rows a folder."""
    data: AnsweredRows = field(default_factory=AnsweredRows)
    trust_custom_encoder: bool = False
    """Run the text encoder file that is saved with the model."""

    def __post_init__(self) -> None:
        self.model, self.image, self.rows = map(expand_home, (self.model, self.image, self.rows))


@dataclass
class Explain:
    """A picture of the evidence for an answer: which places and which words it rests on.

    python -m app explain runs/quickstart --image picture.png --text "what color is the circle?"
    """

    model: str = positional()
    """A run folder, a model folder or a Hub id."""
    image: str = ""
    """Image file."""
    text: str = ""
    """Text."""
    context: dict[str, str] = field(default_factory=dict)
    """Further contexts of the model by name: --context.prior old.png --context.patient '{age: 61, sex: F}'."""
    output: str = "where_it_looked.png"
    """File to write: .png, .jpg, .jpeg, .webp, .svg or .pdf."""
    answer: str = ""
    """Label to explain; by default the most probable one."""
    method: Method | None = None
    """Attribution method: integrated_gradients (default), gradient, occlusion (default for ONNX models) or readout."""
    depth: PositiveInt | None = None
    """Block of the image encoder for the method gradient; by default the first."""
    matrices: bool = False
    """Draw all maps as matrices with colour bars, also the attention to each word."""
    head: NonNegativeInt | None = None
    """With --matrices true: one head of the attention, counted from 0; by default the mean of all."""
    level: PositiveInt | None = None
    """With --matrices true: block of the image encoder; by default the last with attention."""
    trust_custom_encoder: bool = False
    """Run the text encoder file that is saved with the model."""

    def __post_init__(self) -> None:
        self.model, self.image = expand_home(self.model), expand_home(self.image)


def run_predict(options: Predict) -> None:
    """Print the answers to one pair, or write those to many."""
    check_question(options)
    limit = {} if options.data.max_pixels is None else {"max_pixels": options.data.max_pixels}
    load = partial(Predictor.from_pretrained, options.model, None, options.trust_custom_encoder, **limit)
    if options.rows:
        answer_shards(find_shards(options.rows, expand_home(options.output)), load, partial(answer_shard_rows, options))
        return
    if options.data.test:
        output = ready_output(options)
        predict_rows(load(), options, output)
        return
    predictor = load()
    prediction = predictor.predict(
        [(options.image or None, options.text or None, given_contexts(predictor, options.context))], options.top_k
    )[0]
    for answer in prediction.answers:
        applies = "  ✓" if predictor.label_format.type == "multi" and answer["label"] in prediction.labels else ""
        print(f"{answer['probability']:7.1%}  {answer['label']}{applies}")
    if not prediction.is_sure:
        threshold = predictor.model.config.threshold
        reason = f"{prediction.confidence:.1%} is below the threshold of {threshold:.1%}"
        if threshold > 1:
            reason = "no answer of this model was reliable enough on its validation rows"
        print(f"not sure: {reason}")


def check_question(options: Predict) -> None:
    """Check the options before the model is loaded.

    Raises:
        UserError: an option is missing, or two exclude each other.
    """
    many = "--rows" if options.rows else "--data.test"
    if not options.rows and not options.data.test:
        given = [option for option in reading_options(options.data) if option != "--data.max_pixels"]
        given += ["--data.pool"] if options.data.pool else []
        if options.output != Predict.output:
            given.insert(0, "--output")
        if given:
            raise UserError(f"{given[0]} is for many pairs: add --data.test SOURCE.")
        if not options.image and not options.text.strip() and not options.context:
            raise UserError("Give --image FILE, --text TEXT or both; or many pairs: --data.test SOURCE.")
        check_image(options.model, options.image, "ask about all its images with --data.test FOLDER")
    elif options.context:
        raise UserError(f"The contexts of {many} are columns of its rows: leave out --context.")
    elif options.image:
        raise UserError(f"--image asks about one picture, {many} about all of a source: give one of them.")
    elif options.rows and options.data.test:
        raise UserError("--data.test names one source, --rows a pattern of many: give one of them.")
    elif options.rows and options.output == Predict.output:
        raise UserError("--rows needs a folder for the answers: add --output FOLDER.")


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


def given_contexts(predictor: Predictor, values: dict[str, str]) -> dict[str, Any]:
    """The contexts of the command line by name: features are written as YAML, all others as they are.

    Raises:
        UserError: features that are no YAML.
    """
    kinds = {context.name: context.kind for context in predictor.contexts}
    given: dict[str, Any] = {name: expand_home(value) for name, value in values.items()}
    for name in given:
        if kinds.get(name) == "features":
            try:
                given[name] = yaml.load(given[name], Loader=yaml.BaseLoader)
            except yaml.YAMLError as error:
                raise UserError(f"--context.{name} is no value, list or {{column: value}}: {error}") from error
    return given


def check_image(model: str, image: str, instead: str) -> None:
    """Refuse a folder in place of an image, unless the model sees videos, which may be folders of frames."""
    if image and Path(image).is_dir() and not sees_videos(model):
        raise UserError(f"--image {image} is a folder, not an image file; {instead}.")


def sees_videos(model: str) -> bool:
    """Whether the configuration of a model says that it sees videos; a model that is not there is named later."""
    try:
        return ImageTextConfig.from_pretrained(find_model(model)).frames > 1
    except (UserError, OSError):
        return False


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


def run_explain(options: Explain) -> None:
    """Write the explanation of one answer, and print the checked sentence."""
    if not options.image and not options.text.strip() and not options.context:
        raise UserError("Give --image FILE, --text TEXT or both.")
    if not options.matrices and (options.head is not None or options.level is not None):
        raise UserError("--head and --level choose a matrix of attention: add --matrices true.")
    check_image(options.model, options.image, "explain shows one image")
    output = ready_file(user_path(options.output), PICTURES)
    predictor = Predictor.from_pretrained(options.model, None, options.trust_custom_encoder)
    found = predictor.explain(
        options.image or None,
        options.text or None,
        options.answer or None,
        options.method,
        options.depth,
        contexts=given_contexts(predictor, options.context),
    )
    figure = matrices_figure(found, "", options.head, options.level) if options.matrices else explanation_figure(found)
    try:
        figure.savefig(output)
    except OSError as error:
        raise UserError(f"Cannot write {output}: {error.strerror or error}.") from error
    if found.sentence:
        print(found.sentence)
    print(f"wrote {output}")
