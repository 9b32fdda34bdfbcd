"""The command line of `eval.py`."""

import argparse
import shlex
from collections.abc import Callable
from itertools import chain

from app.settings import Settings
from data.paths import expand_home, user_path

READING = ("image_root", "confine_images", "image", "text", "max_pixels")
"""Options of `add_reading`."""


def parse_args(argv: list[str], description: str | None) -> argparse.Namespace:
    """What to score, how, and where to write."""
    parser = argparse.ArgumentParser(
        "eval.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=expand_home, help="a run folder of train.py, a model folder or a Hub id")
    parser.add_argument(
        "--split",
        choices=("test", "validation", "train"),
        default="test",
        help="split of the run's own data (default: test)",
    )
    add_rows(parser)
    add_output(parser)
    return parser.parse_args(argv)


def add_rows(parser: argparse.ArgumentParser) -> None:
    """Which rows are scored, and how they are read."""
    parser.add_argument(
        "--data.test",
        dest="test",
        type=expand_home,
        metavar="SOURCE",
        help="other rows to score: a file, a folder, a Hub id or shapes:N",
    )
    add_reading(parser)
    parser.add_argument("--data.label", dest="label", metavar="COLUMN", help="label column, likewise")
    parser.add_argument(
        "--data.group",
        dest="group",
        metavar="COLUMN",
        help="column, such as the patient, whose values intervals are resampled by, besides images",
    )
    parser.add_argument(
        "--data.weight",
        dest="weight",
        metavar="COLUMN",
        help="column with what each row counts (default: as the run; '' for all alike)",
    )
    parser.add_argument(
        "--data.slice_by",
        dest="slice_by",
        metavar="COLUMN",
        nargs="*",
        help="columns by whose values accuracy is told apart; text_tokens and text_cut tell apart by the text's length",
    )
    parser.add_argument(
        "--data.on_bad_image",
        dest="on_bad_image",
        choices=("stop", "skip"),
        help="stop at images that cannot be read, or leave their rows out and name them",
    )
    parser.add_argument(
        "--data.allow_missing",
        dest="allow_missing",
        type=yes_or_no,
        metavar="true|false",
        help="let rows without an image or without a text through",
    )


def add_reading(parser: argparse._ActionsContainer, prefix: str = "") -> None:
    """How images and texts of rows are read: the same options for every command that takes rows.

    Args:
        prefix: before their names among the parsed arguments.
    """
    parser.add_argument(
        "--data.image_root",
        dest=f"{prefix}image_root",
        type=expand_home,
        metavar="FOLDER",
        help="folder that image paths are relative to",
    )
    parser.add_argument(
        "--data.confine_images",
        dest=f"{prefix}confine_images",
        type=yes_or_no,
        metavar="true|false",
        help="refuse image paths that lead out of that folder, by .. or by links: for someone else's table",
    )
    parser.add_argument(
        "--data.image",
        dest=f"{prefix}image",
        metavar="COLUMN",
        help="image column, where it differs from training",
    )
    parser.add_argument("--data.text", dest=f"{prefix}text", metavar="COLUMN", help="text column or template, likewise")
    parser.add_argument(
        "--data.max_pixels",
        dest=f"{prefix}max_pixels",
        type=at_least(1),
        metavar="PIXELS",
        help="refuse images with more pixels (default: as the run)",
    )


def reading_options(args: argparse.Namespace, prefix: str = "") -> dict[str, str]:
    """Those of `add_reading` that were given, and their values."""
    given = {f"--data.{name}": getattr(args, prefix + name) for name in READING}
    written = {option: str(value).lower() if isinstance(value, bool) else str(value) for option, value in given.items()}
    return {option: written[option] for option, value in given.items() if value is not None}


def answering_command(args: argparse.Namespace, source: str, run: Settings) -> str:
    """The command that answers rows which cannot be scored, read as ``eval.py`` was to read them."""
    of_run = {} if run.data.image_root is None else {"--data.image_root": run.data.image_root}
    options = of_run | reading_options(args)
    trust = ["--trust_custom_encoder"] if args.trust_custom_encoder else []
    return shlex.join(
        ["python", "-m", "app", "predict", args.model, "--rows", source, *chain(*options.items()), *trust]
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """How they are scored, and what is written."""
    parser.add_argument("--batch_size", type=at_least(1), default=32, help="images in a batch (default: 32)")
    parser.add_argument(
        "--pictures",
        type=at_least(0),
        default=8,
        help="examples in each gallery of the report and in where_it_looked.png (default: 8)",
    )
    parser.add_argument(
        "--rows",
        type=at_least(0),
        nargs="+",
        default=[],
        metavar="ROW",
        help="rows, counted from 0 as predictions.parquet does, that the report and where_it_looked.png shall show",
    )
    parser.add_argument(
        "--deletion",
        type=at_least(0),
        default=0,
        metavar="ROWS",
        help="rows for the deletion check: does hiding what the heat-maps mark lower the probability? (default: none)",
    )
    parser.add_argument(
        "--mixed_precision",
        choices=("auto", "no", "bf16", "fp16"),
        help="arithmetic (default: as the run was trained, else auto)",
    )
    parser.add_argument(
        "--output_dir", type=user_path, help="where to write (default: MODEL/evaluation/<split or source>)"
    )
    parser.add_argument("--trust_custom_encoder", action="store_true", help="run the model's own text encoder file")


def at_least(least: int) -> Callable[[str], int]:
    """A whole number no smaller than this, for argparse."""

    def whole_number(value: str) -> int:
        if int(value) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return int(value)

    return whole_number


def yes_or_no(value: str) -> bool:
    """``true`` or ``false``, for argparse."""
    if value.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {value}")
    return value.lower() == "true"
