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
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from tqdm.auto import tqdm

from app.ablate import FUSION_VARIANTS, ablate, parse_variant
from app.doctor import MARKS, examine
from app.eval_arguments import at_least, yes_or_no
from app.kfold import kfold
from app.model_folder import hide_file_bars, load_model
from app.onnx_model import ONNX_FILE, export_onnx, quantize
from app.predictor import Predictor
from app.serving.server import KEY_VARIABLE, ServeSettings, serve
from app.settings import parse_settings
from app.tables import answer_table, table_pairs
from data import Example
from data.paths import expand_home, user_path

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    hide_file_bars()
    try:
        args.run(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def parse_args(argv: list[str]) -> argparse.Namespace:
    """The command and its options; what stands after ``--`` as ``options``."""
    parser = argparse.ArgumentParser(
        "python -m app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    add_asking(commands)
    add_delivery(commands)
    add_studies(commands)
    cut = argv.index("--") if "--" in argv else len(argv)
    return parser.parse_args(argv[:cut], argparse.Namespace(options=argv[cut + 1 :]))


def add_asking(commands: Commands) -> None:
    """The commands that ask a trained model."""
    predict = commands.add_parser("predict", help="the most probable labels of an image and a text")
    predict.add_argument("--top_k", type=int, default=3, help="how many labels (default: 3)")
    predict.add_argument(
        "--rows", type=expand_home, metavar="SOURCE", help="instead of one pair: a table, or a folder of images"
    )
    predict.add_argument("--image_root", type=user_path, help="folder that image paths of the rows are relative to")
    predict.add_argument(
        "--data.confine_images",
        dest="confine_images",
        type=yes_or_no,
        default=False,
        metavar="true|false",
        help="refuse image paths that lead out of that folder, by .. or by links: for someone else's table",
    )
    predict.add_argument(
        "--output",
        type=user_path,
        default=Path("answers.parquet"),
        help="file for the answers to rows: .parquet or .csv",
    )
    predict.set_defaults(run=run_predict)
    explain = commands.add_parser("explain", help="a picture of where the model looked for each word")
    explain.add_argument("--output", type=user_path, default=Path("where_it_looked.png"), help="file to write")
    explain.add_argument("--head", type=int, help="one head of the attention, from 0 (default: the mean of all)")
    explain.add_argument("--level", type=int, help="block of the image encoder (default: the last with attention)")
    explain.set_defaults(run=run_explain)
    for command in (predict, explain):
        command.add_argument("model", type=expand_home, help="a run folder, a model folder or a Hub id")
        command.add_argument("--image", type=expand_home, help="image file; leave out to ask without an image")
        command.add_argument("--text", help="text; leave out to ask without a text")
        command.add_argument(
            "--trust_custom_encoder", action="store_true", help="run the model's own text encoder file"
        )


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
        description="Write a trained model as ONNX; predict and serve take the folder as they take a run's.",
    )
    export.add_argument("model", type=expand_home, help="a run folder, a model folder or a Hub id")
    export.add_argument("--output", type=user_path, required=True, help="folder to write")
    export.add_argument(
        "--int8", type=expand_home, metavar="SOURCE", help="quantise, calibrated on these rows, best some of training"
    )
    export.add_argument("--int8_rows", type=at_least(1), default=256, help="how many of them (default: 256)")
    export.add_argument("--trust_custom_encoder", action="store_true", help="run the model's own text encoder file")
    export.set_defaults(run=run_export)


def add_studies(commands: Commands) -> None:
    """The commands that look at data, and at what choices make of it."""
    doctor = commands.add_parser(
        "doctor",
        help="look at data before training: broken and double images, leaks, labels, baselines, cost",
        description="Look at data as train.py would read it. After -- come options of train.py: "
        "python -m app doctor train.csv test.csv -- --data.label answer",
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
        command.epilog = "After -- come options of train.py that all runs share."


def add_settings(parser: argparse.ArgumentParser, settings: type) -> None:
    """An option for each field of a dataclass, with its help."""
    for field in fields(settings):
        kind = type(field.default)
        options = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        parser.add_argument(f"--{field.name}", default=field.default, help=field.metadata["help"], **options)


def run_serve(args: argparse.Namespace) -> None:
    chosen = {field.name: getattr(args, field.name) for field in fields(ServeSettings)}
    serve(args.model, ServeSettings(**chosen), args.trust_custom_encoder)


def run_predict(args: argparse.Namespace) -> None:
    predictor = Predictor.from_pretrained(args.model, trust_custom_encoder=args.trust_custom_encoder)
    if args.rows:
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


def predict_rows(predictor: Predictor, args: argparse.Namespace) -> None:
    if args.output.suffix not in (".parquet", ".csv"):
        raise ValueError(f"--output must end in .parquet or .csv, got {args.output}.")
    if not args.output.parent.is_dir():
        raise ValueError(f"There is no folder {args.output.parent} to write {args.output.name} in.")
    with tqdm(desc="answering", unit="row") as bar:
        table = answer_table(
            predictor,
            args.rows,
            args.text,
            args.image_root,
            told=lambda rows: bar.update(rows - bar.n),
            confined=args.confine_images,
        )
    if args.output.suffix == ".csv":
        table.to_csv(args.output, index=False)
    else:
        table.to_parquet(args.output, index=False)
    faulty = table[table["error"].notna()]
    for row, error in faulty[["row", "error"]].head(5).itertuples(index=False):
        print(f"row {row}: {error}", file=sys.stderr)
    print(f"{len(table) - len(faulty):,} of {len(table):,} rows answered, {len(faulty):,} not; wrote {args.output}")


def run_explain(args: argparse.Namespace) -> None:
    if args.image is None or args.text is None:
        raise ValueError("explain needs both --image and --text.")
    predictor = Predictor.from_pretrained(args.model, trust_custom_encoder=args.trust_custom_encoder)
    figure = predictor.explain(args.image, args.text).figure(args.text, args.head, args.level)
    try:
        figure.savefig(args.output)
    except OSError as error:
        raise ValueError(f"Cannot write {args.output}: {error.strerror or error}.") from error
    print(f"wrote {args.output}")


def run_export(args: argparse.Namespace) -> None:
    model, processor = load_model(args.model, args.trust_custom_encoder)
    predictor = Predictor(model, processor, "cpu", precision="no")
    export_onnx(model, processor, args.output)
    if args.int8:
        pairs = islice(table_pairs(args.int8, predictor, None, confined=False), args.int8_rows)
        prepared = predictor.prepare((image, text) for _, image, text in pairs)
        quantize(args.output, processor, [example for example in prepared if isinstance(example, Example)])
    size = (args.output / ONNX_FILE).stat().st_size / 1e6
    print(f"wrote {args.output}: {ONNX_FILE} ({size:.0f} MB), the configuration and the processor")
    print(f"Next:\n  python -m app serve {shlex.quote(str(args.output))}")


def run_doctor(args: argparse.Namespace) -> None:
    sources = args.source
    if not sources[0].endswith((".yaml", ".yml")):
        names = ("--data.train", "--data.test")
        if len(sources) > len(names):
            raise ValueError(f"doctor takes training rows and held-out rows, got {len(sources)} sources.")
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
