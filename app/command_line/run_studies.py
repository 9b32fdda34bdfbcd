"""The commands that look at data and compare ways to train."""

import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from filelock import FileLock
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt, restricted_number_type

from app.command_line.commands import positional
from app.quick_start import first_imports
from app.settings_parser import parse_settings, split_options
from data.errors import UserError
from data.paths import user_path

Folds = restricted_number_type("Folds", int, (">=", 2))


@dataclass
class Doctor:
    """Look at data before training: broken and duplicate images, leaks, labels, baselines, cost.

    Takes the arguments of train.py, which python train.py --help lists.

    python -m app doctor configs/quickstart.yaml
    python -m app doctor --data.train train.csv --data.test test.csv
    """

    config: str = positional("")
    """A configuration (.yaml)."""


@dataclass
class KFold:
    """Cross-validation: train with each fold held out, and score all rows together.

    Options of train.py for all runs may be added, such as --train.epochs 5; python train.py --help lists them.

    python -m app kfold configs/mine.yaml --folds 5
    """

    config: str = positional()
    """A configuration (.yaml) whose training rows are split into folds."""
    folds: Folds = 5  # type: ignore[valid-type]
    """Number of folds."""
    output: str = ""
    """Folder of the runs; by default runs/kfold_<config>."""


@dataclass
class Ablate:
    """Train variants of a configuration with several seeds and compare them.

    Options of train.py for all runs may be added, such as --train.epochs 5; python train.py --help lists them.

    python -m app ablate configs/quickstart.yaml
    python -m app ablate configs/mine.yaml --variant+ "as it is" --variant+ "small: --model.image_size 64"
    """

    config: str = positional()
    """A configuration (.yaml) that all variants share."""
    variant: list[str] = field(default_factory=list)
    """A variant as "name: options of train.py"; repeat --variant+ for each. The first one is the reference. By default
    the four fusions."""
    seeds: list[NonNegativeInt] = field(default_factory=lambda: [0, 1, 2])
    """Seeds that each variant is trained with."""
    published: list[float] = field(default_factory=list)
    """Accuracies in percent that others report, one for each variant: a column of the table."""
    output: str = ""
    """Folder of the runs; by default runs/ablation_<config>."""


@dataclass
class Search:
    """Search for the model and the training that answer the validation rows best, with Optuna.

    The test rows are not read. The same command goes on after an interruption, and several processes that run it share
    the trials. Options of train.py for all trials may be added, such as --train.epochs 5; python train.py --help lists
    them.

    python -m app search configs/mine.yaml --trials 40
    python -m app search configs/mine.yaml --space space.yaml --hours 8 --cost seconds
    python -m app search configs/mine.yaml --storage postgresql://user@host/database
    """

    config: str = positional()
    """A configuration (.yaml): the first trial, and what all trials share."""
    space: str = ""
    """A YAML file that changes the space: see configs/spaces/default.yaml."""
    trials: PositiveInt = 20
    """Number of trials of the study."""
    hours: NonNegativeFloat = 0.0
    """Hours after which this process starts no further trial; 0 does not limit them."""
    cost: Literal["none", "seconds", "work"] = "none"
    """A second objective: seconds of an answer on this CPU, or work, its multiplications. The result is a Pareto
    front."""
    fidelity: str = ""
    """Options of train.py that make trials cheaper than the final trainings, such as "--data.shots 50
    --model.image_size 112"."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How values are chosen: tpe learns from the trials so far."""
    pruner: Literal["hyperband", "none"] = "hyperband"
    """hyperband ends trials early that are worse than others after the same epochs."""
    seeds: NonNegativeInt = 3
    """Number of seeds with which the winner and the default are trained anew at the end; 0 trains neither."""
    storage: str = ""
    """URL of a database that several machines share, such as postgresql://user@host/database; by default a journal in
    the folder of the study."""
    output: str = ""
    """Folder of the study; by default runs/search_<config>. In a database its name is that of the study."""


@dataclass
class Shots:
    """Few-shot curves: accuracy by the number of training rows of each class, from random and pretrained weights.

    Options of train.py for all runs may be added, such as --recipe probe; python train.py --help lists them.

    python -m app shots configs/mine.yaml --shots [1,5,20]
    python -m app shots configs/mine.yaml --init runs/other_data
    """

    config: str = positional()
    """A configuration (.yaml) that all runs share."""
    shots: list[PositiveInt] = field(default_factory=lambda: [1, 2, 5, 10, 20])
    """Numbers of training rows of each class."""
    init: str = ""
    """Also start from this trained classifier: a run folder, a model folder or a Hub id."""
    variant: list[str] = field(default_factory=list)
    """What training starts from, as "name: options of train.py"; repeat --variant+ for each. By default random weights
    (scratch) and those of the configuration (pretrained)."""
    seeds: list[NonNegativeInt] = field(default_factory=lambda: [0, 1, 2])
    """Seeds of training and of the rows that are drawn."""
    output: str = ""
    """Folder of the runs; by default runs/shots_<config>."""


def run_doctor(options: Doctor, training: list[str]) -> None:
    """Print what is found, and the command to train with."""
    with first_imports():  # slow, like all studies
        from app.inference.load import hide_file_bars
        from app.studies.doctor import MARKS, examine

    if options.config and not options.config.endswith((".yaml", ".yml")):
        raise UserError(
            f"{options.config} is no configuration (.yaml); name tables with --data.train FILE and --data.test FILE."
        )
    arguments = [options.config, *training] if options.config else training
    hide_file_bars()
    warnings = 0
    for heading, findings in examine(parse_settings(arguments)):
        print(f"\n{heading}")
        for grade, finding in findings:
            print(f"  {MARKS[grade]} {finding}")
            warnings += grade == "warning"
    print(f"\n{warnings} warnings. Train with: {shlex.join(['python', 'train.py', *arguments])}")


def run_kfold(options: KFold, training: list[str]) -> None:
    """Train the folds and print the figures over all rows."""
    with first_imports():
        from app.studies.kfold import kfold

    config = user_path(options.config)
    folder = user_path(options.output) if options.output else Path("runs") / f"kfold_{config.stem}"
    print("\n" + kfold(config, options.folds, folder, training))
    print(f"\nwritten to {folder}: kfold.json, predictions.parquet, a run in each fold_*")


def run_ablate(options: Ablate, training: list[str]) -> None:
    """Train the variants and print the table."""
    with first_imports():
        from app.studies.ablate import FUSION_VARIANTS, ablate, parse_variant, with_published

    config = user_path(options.config)
    variants = with_published([parse_variant(text) for text in options.variant] or FUSION_VARIANTS, options.published)
    folder = user_path(options.output) if options.output else Path("runs") / f"ablation_{config.stem}"
    print("\n" + ablate(config, variants, options.seeds, folder, training))
    print(f"\nwritten to {folder / 'ablation.md'}")


def run_shots(options: Shots, training: list[str]) -> None:
    """Train on few rows of each class and print the table."""
    with first_imports():
        from app.studies.ablate import Variant, parse_variant
        from app.studies.shots import STARTS, few_shots

    config = user_path(options.config)
    variants = [parse_variant(text) for text in options.variant] or list(STARTS)
    model = parse_settings([str(config), *training]).model if config.is_file() else None
    if model and not options.variant and model.image_encoder != "vgg16":
        raise UserError(
            f"The default variants start VGG16 from random weights, and {config} has the image encoder "
            f'{model.image_encoder}. Name what to compare, for example --variant+ "pretrained:" --variant+ '
            '"scratch: --model.text_encoder scratch --model.image_encoder resnet".'
        )
    if options.init:
        variants.append(Variant(f"from {Path(options.init).name}", [], init=options.init))
    folder = user_path(options.output) if options.output else Path("runs") / f"shots_{config.stem}"
    print("\n" + few_shots(config, variants, options.shots, options.seeds, folder, training))
    print(f"\nwritten to {folder}: shots.md, shots.json, shots.png, and a folder for each run")


def run_search(options: Search, training: list[str]) -> None:
    """Run trials, train the winner anew, and write the report."""
    with first_imports():
        from app.studies.search.search import Search as Study
        from app.studies.search.search import SearchOptions
        from app.studies.search.study_report import write_report
        from app.studies.search.winner import train_command, train_finals, write_winner

    config = user_path(options.config)
    folder = user_path(options.output) if options.output else Path("runs") / f"search_{config.stem}"
    taken = {f.name: getattr(options, f.name) for f in fields(SearchOptions) if f.name != "fidelity"}
    how = SearchOptions(fidelity=tuple(split_options(options.fidelity)), **taken)
    space = user_path(options.space) if options.space else None
    search = Study.open(config, space, folder, how, training)
    search.run()
    with FileLock(folder / "final.lock"):  # one of the processes trains, and the others find what it did
        final = train_finals(search, options.seeds)
        written = write_winner(search, final)
        report = write_report(search, final, [train_command(path) for path in written])
    if final:
        print(f"\n{final.verdict()}\nwinner: {final.describe(final.best)}\ndefault: {final.describe(final.default)}")
    print(f"\nwritten to {folder}: {', '.join(path.name for path in (report, *written))}")
    print(f"Next:\n  {train_command(written[0])}")
