"""Look at data before training, ask a trained model, or compare ways to train one.

python -m app doctor train.csv test.csv
python -m app doctor configs/quickstart.yaml
python -m app predict runs/quickstart --image picture.png --text "what color is the circle?"
python -m app predict runs/quickstart --rows test.csv --output answers.parquet
python -m app explain runs/quickstart --image picture.png --text "what color is the circle?"
python -m app serve runs/quickstart
python -m app export runs/quickstart --output exported
python -m app kfold configs/mine.yaml
python -m app ablate configs/quickstart.yaml
python -m app ablate configs/mine.yaml --variant "as it is" "small: --model.image_size 64" -- --train.epochs 5
"""

import argparse
import shlex
import sys
from collections import Counter
from dataclasses import fields
from itertools import islice
from pathlib import Path

from app.command_line.ask import SHOWN, Commands, add_asking, open_rows
from app.command_line.rows import add_reading, at_least, reading_options
from app.inference.batch_predict import reason
from app.inference.load import hide_file_bars
from app.inference.onnx_export import export_onnx, quantize
from app.inference.predictor import Predictor
from app.output_paths import ready_folder
from app.serving.server import KEY_VARIABLE, ServeSettings, serve
from app.settings import Settings, parse_settings, setting_names
from app.studies.ablate import FUSION_VARIANTS, ablate, parse_variant
from app.studies.doctor import MARKS, examine
from app.studies.kfold import kfold
from data import Example
from data.errors import UserError
from data.paths import expand_home, user_path
from models.onnx_classifier import ONNX_FILE, OnnxModel


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    hide_file_bars()
    try:
        args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def parse_args(argv: list[str]) -> argparse.Namespace:
    """The command and its options; those of train.py, and what stands after ``--``, as ``options``."""
    parser = argparse.ArgumentParser(
        "python -m app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    add_asking(commands)
    add_delivery(commands)
    add_studies(commands)
    cut = argv.index("--") if "--" in argv else len(argv)
    args, unknown = parser.parse_known_args(argv[:cut])
    if unknown and not hasattr(args, "options"):
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    args.options = [*getattr(args, "options", []), *unknown, *argv[cut + 1 :]]  # train.py names the unknown ones
    return args


class PassOn(argparse.Action):
    """Collect an option of train.py, with its value, in ``options``."""

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.options = [*namespace.options, option_string, values]


def pass_on(command: argparse.ArgumentParser) -> None:
    """Let a command take the settings of train.py too, so that what a message advises can be added to it."""
    command.set_defaults(options=[])
    for name in setting_names(Settings):
        if name != "run_dir":
            command.add_argument(f"--{name}", action=PassOn, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_delivery(commands: Commands) -> None:
    """The commands that put a trained model where others use it."""
    serving = commands.add_parser(
        "serve",
        help="a page for people and an API for programs",
        description=f"Serve a trained model. With a key in the environment variable {KEY_VARIABLE} programs must send "
        "it, and it is the page's password.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    serving.add_argument(
        "model", type=expand_home, nargs="?", default="runs/quickstart", help="a run folder, a model folder or a Hub id"
    )
    serving.add_argument("--trust_custom_encoder", action="store_true", help="run the model's own text encoder file")
    add_settings(serving, ServeSettings)
    serving.set_defaults(run=run_serve)
    export = commands.add_parser(
        "export",
        help="write a model as one ONNX file, in float32 or int8",
        description="Write a trained model as ONNX; predict, serve and eval.py take the folder as they take a run's.",
    )
    export.add_argument("model", type=expand_home, help="a run folder, a model folder or a Hub id")
    export.add_argument("--output", type=user_path, required=True, help="folder to write")
    export.add_argument(
        "--int8", type=expand_home, metavar="SOURCE", help="quantise, calibrated on these rows, best some of training"
    )
    export.add_argument("--int8_rows", type=at_least(1), default=256, help="how many of them (default: 256)")
    export.add_argument("--trust_custom_encoder", action="store_true", help="run the model's own text encoder file")
    add_reading(export.add_argument_group("the rows of --int8"), "rows_")
    export.set_defaults(run=run_export)


def add_studies(commands: Commands) -> None:
    """The commands that look at data, and at what choices make of it."""
    doctor = commands.add_parser(
        "doctor",
        help="look at data before training: broken and double images, leaks, labels, baselines, cost",
        description="Look at data as train.py would read it, with its options: "
        "python -m app doctor train.csv test.csv --data.label answer",
    )
    doctor.add_argument(
        "source", nargs="+", help="a configuration (.yaml), or training rows and held-out rows if there are some"
    )
    doctor.set_defaults(run=run_doctor)
    compare = commands.add_parser("ablate", help="train variants with several seeds: what does the difference make?")
    compare.add_argument("config", type=user_path, help="configuration that all share")
    compare.add_argument(
        "--variant",
        nargs="+",
        action="extend",
        metavar="NAME: OPTIONS",
        help="variants, told from the first, as name and options of train.py (default: the four fusions)",
    )
    compare.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    compare.add_argument("--output", type=user_path, help="folder of the runs (default: runs/ablation_<config>)")
    compare.set_defaults(run=run_ablate)
    folds = commands.add_parser("kfold", help="cross-validation: every row held out once")
    folds.add_argument("config", type=user_path, help="configuration whose training rows are dealt into folds")
    folds.add_argument("--folds", type=at_least(2), default=5, help="how many (default: 5)")
    folds.add_argument("--output", type=user_path, help="folder of the runs (default: runs/kfold_<config>)")
    folds.set_defaults(run=run_kfold)
    for command in (compare, folds):
        command.epilog = "Options of train.py that all runs share may be added, such as --train.epochs 5."
    for command in (doctor, compare, folds):
        pass_on(command)


def add_settings(parser: argparse.ArgumentParser, settings: type) -> None:
    """An option for each field of a dataclass, with its help."""
    for field in fields(settings):
        kind = type(field.default)
        options = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        parser.add_argument(f"--{field.name}", default=field.default, help=field.metadata["help"], **options)


def run_serve(args: argparse.Namespace) -> None:
    chosen = {field.name: getattr(args, field.name) for field in fields(ServeSettings)}
    serve(args.model, ServeSettings(**chosen), args.trust_custom_encoder)


def run_export(args: argparse.Namespace) -> None:
    if not args.int8 and (given := list(reading_options(args, "rows_"))):
        raise UserError(f"{given[0]} is for the rows that int8 is calibrated on: add --int8 SOURCE.")
    ready_folder(args.output)
    limit = {} if args.rows_max_pixels is None else {"max_pixels": args.rows_max_pixels}
    predictor = Predictor.from_pretrained(args.model, "cpu", args.trust_custom_encoder, precision="no", **limit)
    model, processor = predictor.model, predictor.processor
    if isinstance(model, OnnxModel):
        raise UserError(f"{args.model} is an exported model already; give the run folder it was exported from.")
    examples = calibration_rows(predictor, args) if args.int8 else []
    export_onnx(model, processor, args.output)
    if examples:
        quantize(args.output, processor, examples)
    size = (args.output / ONNX_FILE).stat().st_size / 1e6
    print(f"wrote {args.output}: {ONNX_FILE} ({size:.0f} MB), the configuration and the processor")
    print(f"Next:\n  python -m app serve {shlex.quote(str(args.output))}")
    print(f"  python eval.py {shlex.quote(str(args.output))} --data.test OTHER.csv")


def calibration_rows(predictor: Predictor, args: argparse.Namespace) -> list[Example]:
    """The first rows of the source, up to ``--int8_rows``; those that cannot be used are counted.

    Raises:
        UserError: none can be used.
    """
    pairs = list(islice(open_rows(predictor, args.int8, args).rows, args.int8_rows))
    prepared = predictor.prepare((pair.image, pair.text) for pair in pairs)
    faults = Counter(
        reason(fault, pair) for fault, pair in zip(prepared, pairs, strict=True) if isinstance(fault, UserError)
    )
    told = "; ".join(f"{number:,} × {why}" for why, number in faults.most_common(SHOWN))
    if faults.total() == len(pairs):
        raise UserError(f"None of the {len(pairs):,} rows of {args.int8} can be used to calibrate int8: {told}")
    if faults:
        print(f"{faults.total():,} of {len(pairs):,} rows of {args.int8} are left out: {told}", file=sys.stderr)
    return [example for example in prepared if isinstance(example, Example)]


def run_doctor(args: argparse.Namespace) -> None:
    sources = args.source
    if not sources[0].endswith((".yaml", ".yml")):
        names = ("--data.train", "--data.test")
        if len(sources) > len(names):
            raise UserError(f"doctor takes training rows and held-out rows, got {len(sources)} sources.")
        sources = [part for pair in zip(names, sources, strict=False) for part in pair]
    warnings = 0
    for heading, findings in examine(parse_settings([*sources, *args.options])):
        print(f"\n{heading}")
        for grade, finding in findings:
            print(f"  {MARKS[grade]} {finding}")
            warnings += grade == "warning"
    print(f"\n{warnings} warnings. Train with: {shlex.join(['python', 'train.py', *sources, *args.options])}")


def run_ablate(args: argparse.Namespace) -> None:
    variants = [parse_variant(text) for text in args.variant] if args.variant else FUSION_VARIANTS
    folder = args.output or Path("runs") / f"ablation_{args.config.stem}"
    print("\n" + ablate(args.config, variants, args.seeds, folder, args.options))
    print(f"\nwritten to {folder / 'ablation.md'}")


def run_kfold(args: argparse.Namespace) -> None:
    folder = args.output or Path("runs") / f"kfold_{args.config.stem}"
    print("\n" + kfold(args.config, args.folds, folder, args.options))
    print(f"\nwritten to {folder}: kfold.json, predictions.parquet, a run in each fold_*")


if __name__ == "__main__":
    main(sys.argv[1:])
