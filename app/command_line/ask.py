"""The commands that ask a trained model: ``predict`` and ``explain``."""

import argparse
import shlex
import sys
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from tqdm.auto import tqdm

from app.command_line.rows import add_reading, at_least, reading_options
from app.inference.batch_predict import AbsentColumnsError, Answers, Pairs, answer_pairs, open_pairs, write_answers
from app.inference.predictor import Predictor
from app.output_paths import ready_file
from app.settings import load_settings
from data.errors import UserError
from data.paths import expand_home, user_path

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
ANSWERS = Path("answers.parquet")
"""Where the answers to rows go unless it is said."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")
"""Endings of the file that ``explain`` writes."""
SHOWN = 5
"""Reasons why rows are not answered that are told; all are counted."""


def add_asking(commands: Commands) -> None:
    """The options of ``predict`` and ``explain``."""
    predict = commands.add_parser("predict", help="the most probable labels of an image and a text, or of many")
    explain = commands.add_parser("explain", help="a picture of where the model looked for each word")
    for command in (predict, explain):
        command.add_argument("model", type=expand_home, help="a run folder, a model folder or a Hub id")
        command.add_argument("--image", type=expand_home, help="image file; leave out to ask without an image")
        command.add_argument("--text", help="text; leave out to ask without a text")
        command.add_argument(
            "--trust_custom_encoder", action="store_true", help="run the model's own text encoder file"
        )
    predict.add_argument("--top_k", type=at_least(1), default=3, help="how many labels (default: 3)")
    rows = predict.add_argument_group("many pairs at once")
    rows.add_argument(
        "--rows",
        type=expand_home,
        metavar="SOURCE",
        help="a table, or a folder of images of which all are asked the --text",
    )
    rows.add_argument(
        "--output",
        type=user_path,
        help=f"file for the answers, .parquet or .csv, with --top_k labels a row (default: {ANSWERS})",
    )
    add_reading(rows, "rows_")
    predict.set_defaults(run=run_predict)
    explain.add_argument("--output", type=user_path, default=Path("where_it_looked.png"), help="file to write")
    explain.add_argument("--head", type=int, help="one head of the attention, from 0 (default: the mean of all)")
    explain.add_argument("--level", type=int, help="block of the image encoder (default: the last with attention)")
    explain.set_defaults(run=run_explain)


def run_predict(args: argparse.Namespace) -> None:
    check_question(args)
    limit = {} if args.rows_max_pixels is None else {"max_pixels": args.rows_max_pixels}
    predictor = Predictor.from_pretrained(args.model, trust_custom_encoder=args.trust_custom_encoder, **limit)
    if args.rows is not None:
        predict_rows(predictor, args)
        return
    prediction = predictor.predict([(args.image, args.text)], args.top_k)[0]
    for answer in prediction.answers:
        applies = "  ✓" if predictor.label_format.type == "multi" and answer["label"] in prediction.labels else ""
        print(f"{answer['probability']:7.1%}  {answer['label']}{applies}")
    if not prediction.is_sure:
        threshold = predictor.model.config.threshold
        why = f"{prediction.confidence:.1%}, sure only from {threshold:.1%} on"
        if threshold > 1:
            why = "on its validation rows no answer of this model was safe enough"
        print(f"not sure: {why}")


def check_question(args: argparse.Namespace) -> None:
    """Refuse what cannot be asked, or written, before the model is loaded.

    Raises:
        UserError: says what is missing, or does not go together.
    """
    if args.rows is None:
        of_rows = {"--output": args.output} | reading_options(args, "rows_")
        of_rows.pop("--data.max_pixels", None)
        if given := [option for option, value in of_rows.items() if value is not None]:
            raise UserError(f"{given[0]} is for many pairs: add --rows SOURCE.")
        if args.image is None and not (args.text or "").strip():
            raise UserError("Give --image FILE, --text TEXT or both; or many pairs: --rows SOURCE.")
        check_image(args.image, "ask about all its images with --rows FOLDER")
        return
    if not args.rows:
        raise UserError("--rows is empty; give a table or a folder of images.")
    if args.image is not None:
        raise UserError("--image asks about one picture, --rows about all of a source: give one of them.")
    args.output = ready_file(args.output or ANSWERS, (".parquet", ".csv"))
    if args.output.exists() and Path(args.rows).exists() and args.output.samefile(args.rows):
        raise UserError(f"--output {args.output} would replace the rows themselves; name another file.")


def check_image(image: str | None, instead: str) -> None:
    """Refuse a folder where one image is asked for."""
    if image is not None and Path(image).is_dir():
        raise UserError(f"--image {image or repr(image)} is a folder, not an image file; {instead}.")


def open_rows(predictor: Predictor, source: str, args: argparse.Namespace, text: str | None = None) -> Pairs:
    """A source as the options of `add_reading` say; what the model looks for in vain is told.

    Raises:
        UserError: a source that cannot be read; names the option that may help.
    """
    columns = {name: column for name in ("image", "text") if (column := getattr(args, f"rows_{name}")) is not None}
    try:
        confined = bool(args.rows_confine_images)
        pairs = open_pairs(predictor, source, text, args.rows_image_root, columns=columns, confined=confined)
    except AbsentColumnsError as error:
        raise UserError(f"{error} Name them with --data.image COLUMN and --data.text COLUMN.") from error
    for setting, names in pairs.absent.items():
        named = ", ".join(map(repr, names))
        print(f"{source} has no column {named}: its rows are answered without {setting} (--data.{setting} COLUMN)")
    return pairs


def predict_rows(predictor: Predictor, args: argparse.Namespace) -> None:
    """Answer a source, write the answers, and say how many there are; exits with code 1 if there are none."""
    pairs = open_rows(predictor, args.rows, args, args.text)
    with tqdm(desc="answering", total=pairs.number, unit="row") as bar:
        answers = answer_pairs(predictor, pairs, args.top_k, told=lambda rows: bar.update(rows - bar.n))
    write_answers(answers.table, args.output)
    tell_reasons(answers)
    total, failed = len(answers.table), sum(map(len, answers.reasons.values()))
    print(f"{total - failed:,} of {total:,} rows answered, {failed:,} not; wrote {args.output}")
    if failed == total:
        sys.exit(1)
    if pairs.has_labels:
        print(f"The rows have labels. To score the model on them:\n  {scoring_command(args)}")


def tell_reasons(answers: Answers) -> None:
    """Why rows are not answered: the most frequent reasons, each with its number of rows and the first of them."""
    ranked = sorted(answers.reasons.values(), key=len, reverse=True)
    for rows in ranked[:SHOWN]:
        such = "" if len(rows) == 1 else f"{len(rows):,} rows, such as "
        print(f"not answered: {such}row {rows[0]}: {answers.table['error'][rows[0]]}", file=sys.stderr)
    if rest := sum(map(len, ranked[SHOWN:])):
        print(f"not answered: {rest:,} rows for other reasons; the column error has them", file=sys.stderr)


def scoring_command(args: argparse.Namespace) -> str:
    """The command that scores the rows that ``predict`` has answered."""
    options, run = reading_options(args, "rows_"), Path(args.model) / "config.yaml"
    if "--data.image_root" not in options and run.is_file() and load_settings(run).data.image_root is not None:
        options["--data.image_root"] = str(Path(args.rows).parent)  # otherwise paths would be relative to the run's
    trust = ["--trust_custom_encoder"] if args.trust_custom_encoder else []
    command = ["python", "eval.py", args.model, "--data.test", args.rows, *chain(*options.items()), *trust]
    return shlex.join(command)


def run_explain(args: argparse.Namespace) -> None:
    if args.image is None or not (args.text or "").strip():
        raise UserError("explain needs both --image and --text.")
    check_image(args.image, "explain shows one image")
    args.output = ready_file(args.output, PICTURES)
    predictor = Predictor.from_pretrained(args.model, trust_custom_encoder=args.trust_custom_encoder)
    figure = predictor.explain(args.image, args.text).figure(args.text, args.head, args.level)
    try:
        figure.savefig(args.output)
    except OSError as error:
        raise UserError(f"Cannot write {args.output}: {error.strerror or error}.") from error
    print(f"wrote {args.output}")
