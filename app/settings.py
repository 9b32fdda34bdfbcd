"""The configuration of a training run: typed, read from YAML and the command line, checked before any work."""

import difflib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, set_parsing_settings
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)

from app.run_paths import find_all
from data import DataSettings
from data.errors import UserError
from data.paths import expand_home
from models.settings import ModelSettings

if TYPE_CHECKING:
    FrozenBlocks = int
else:
    FrozenBlocks = restricted_number_type("FrozenBlocks", int, [(">=", 0), ("<=", 5)])

set_parsing_settings(docstring_parse_attribute_docstrings=True)


@dataclass
class LearningRateScales:
    """What the learning rate is multiplied by in each part; 0 freezes the part."""

    image_encoder: NonNegativeFloat | None = None
    """The image encoder; when not given 0.3 from scratch, 0.1 where they are pretrained."""
    text_encoder: NonNegativeFloat | None = None
    """The text encoder; when not given 1 from scratch or with LoRA, 0.1 where it is pretrained."""
    fusion: NonNegativeFloat = 1.0
    """Context grid, cross-attention and the tokens for missing inputs."""
    classifier: NonNegativeFloat = 1.0
    """The classifier."""


@dataclass
class TrainSettings:
    """How the model is trained."""

    epochs: PositiveInt = 20
    """Passes over the training rows; with the schedule constant or step a run goes on where it is raised."""
    batch_size: PositiveInt = 32
    """Images in a batch of one process, each with all its texts."""
    gradient_accumulation_steps: PositiveInt = 1
    """Batches whose gradients are added up before a step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW (Loshchilov & Hutter 2019) or SGD with momentum 0.9."""
    learning_rate: PositiveFloat = 1e-3
    """Highest learning rate; parts may scale it."""
    scales: LearningRateScales = field(default_factory=LearningRateScales)
    """Learning rate of each part, as a multiple."""
    frozen_blocks: FrozenBlocks = 0
    """How many of VGG16's five blocks, from the first, keep their weights."""
    cache_features: bool = True
    """Compute what frozen encoders make of an image or a text once, and keep it in .features beside the run folder."""
    lora_rank: NonNegativeInt = 0
    """Rank of the LoRA matrices by which alone a pretrained text encoder learns; 0 trains its own weights."""
    gradient_checkpointing: bool = False
    """Keep fewer activations for the backward pass and compute them again: less memory, slower steps."""
    weight_decay: NonNegativeFloat = 0.05
    """Of weights; norms, biases and single vectors have none."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """cosine (to 0), step (times step_gamma every step_epochs) or constant; each after the warm-up."""
    warmup: ClosedUnitInterval = 0.1
    """Share of the steps in which the rate rises from 0."""
    step_epochs: PositiveInt = 5
    """Epochs between two falls of the step schedule."""
    step_gamma: ClosedUnitInterval = 0.1
    """Factor of each fall of the step schedule."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    label_smoothing: ClosedUnitInterval = 0.0
    """Share of the target that is spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced weighs each class by the inverse of its frequency; where several may apply, the rows to which one does
    by how many more there are to which it does not."""
    augment: bool = False
    """Show each image a little turned, moved, scaled and changed in brightness every time, never mirrored: for few
    images."""
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """shuffle takes every image once an epoch; balanced draws as many images, those with rare labels more often."""
    attention_penalty: NonNegativeFloat = 0.0
    """Weight in the loss of the mean squared length of the attention weights of a position, from 1/49 where they are
    spread over all slots to 1 where they are on one; with --model.fusion cross."""
    gate_cost: NonNegativeFloat = 0.0
    """Weight in the loss of the share of the work behind gates that is done, with --model.gated true."""
    gate_warmup: ClosedUnitInterval = 0.5
    """Share of the epochs, the first, in which gates are held open, so that all else learns before gates do; they learn
    in one at least, and the best epoch is one of these."""
    early_stopping: NonNegativeInt = 0
    """Stop after this many epochs without a better validation accuracy; 0 never does."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto is bf16 where the processor computes it natively, else float32."""
    target_risk: ClosedUnitInterval = 0.05
    """Share of wrong answers allowed among the sure ones: chooses on the validation rows, after training, the
    probability below which the model is not sure."""
    seed: NonNegativeInt = 0
    """Seed of weights, order, dropout and the validation cut."""
    pictures: NonNegativeInt = 8
    """Held-out examples in where_it_looked.png."""
    checkpoint_steps: NonNegativeInt = 200
    """Steps between two checkpoints within an epoch, from which the run goes on after an interruption; 0 writes one at
    the end of each epoch only."""
    keep_checkpoints: PositiveInt = 2
    """How many checkpoints are kept, the newest."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Experiment trackers known to accelerate: tensorboard, wandb, mlflow, …; [] for none."""


PATHS = (
    "run_dir",
    "data.train",
    "data.validation",
    "data.test",
    "data.image_root",
    "model.text_encoder",
    "model.image_encoder",
    "model.image_weights",
)
"""Settings that are, or may be, paths."""
NOTHING = re.compile(r"(?s)#.*|~|null|Null|NULL")
"""What YAML reads as no value."""


@dataclass
class Settings:
    """Everything a run depends on."""

    data: DataSettings = field(default_factory=DataSettings)
    """What to read."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """What the classifier is made of."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """How it is trained."""
    run_dir: str = ""
    """Folder of the run; runs/<name of the configuration file> when not given."""
    overwrite: bool = False
    """Delete the run in the folder first; otherwise an unfinished one of the same settings and data goes on."""

    def __post_init__(self):
        """Paths may begin with ``~``."""
        for name in PATHS:
            section, _, field_name = name.rpartition(".")
            owner = getattr(self, section) if section else self
            if path := getattr(owner, field_name):
                setattr(owner, field_name, expand_home(path))


INCIDENTAL = {
    "run_dir",
    "overwrite",
    "data.num_workers",
    "train.trackers",
    "train.pictures",
    "train.checkpoint_steps",
    "train.keep_checkpoints",
}
"""Settings that do not change what a run computes."""
LATER = {
    "train.epochs",
    "train.warmup",
    "train.gate_warmup",
    "train.early_stopping",
    "train.target_risk",
    "data.slice_by",
}
"""Settings that an unfinished run may change where all that it did so far would have been the same."""
BY_CONTENT = {
    "data.train",
    "data.validation",
    "data.test",
    "data.image_root",
    "model.text_encoder",
    "model.text_revision",
    "model.image_encoder",
    "model.image_revision",
    "model.image_weights",
}
"""Settings that name training data; their content counts, not the name (`app.training.provenance`)."""


class SettingsParser(ArgumentParser):
    """A parser that takes no abbreviations and whose errors name the nearest valid option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        if unknown := re.search(r"unrecognized arguments: --([\w.]+)", message):
            message += suggest(unknown[1], self.option_names())
        elif unknown := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
            message += suggest(f"{unknown[1]}.{unknown[2]}", self.option_names())
        elif unknown := re.search(r"Option '([\w.]+)' is not accepted", message):
            message += suggest(unknown[1], self.option_names())
        super().error(message, ex)

    def option_names(self) -> list[str]:
        """Dotted names of all options, without their groups."""
        names = [action.dest for action in self._actions if action.option_strings]
        return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def suggest(unknown: str, valid: list[str]) -> str:
    """A sentence with the valid key that is nearest to an unknown one: as a whole, or by its last word."""
    by_last_word = {key.rpartition(".")[2]: key for key in valid}
    last_word = difflib.get_close_matches(unknown.rpartition(".")[2], by_last_word, n=1)
    near = [by_last_word[word] for word in last_word] or difflib.get_close_matches(unknown, valid, n=1)
    return f". Unknown key {unknown!r}" + (f"; did you mean {near[0]!r}?" if near else ".")


def setting_names(settings: type, prefix: str = "") -> list[str]:
    """Dotted names of all settings."""
    names: list[str] = []
    for f in fields(settings):
        nested = isinstance(f.type, type) and is_dataclass(f.type)
        names += setting_names(f.type, f"{prefix}{f.name}.") if nested else [prefix + f.name]  # type: ignore[arg-type]
    return names


def settings_parser() -> SettingsParser:
    parser = SettingsParser(
        prog="train.py",
        usage="python train.py [CONFIG.yaml] [--section.key value ...]",
        description="Fine-tune an image+text classifier. Start from configs/quickstart.yaml, or name your own table: "
        "python train.py --data.train train.csv --data.test test.csv",
    )
    parser.add_argument("--config", action=ActionConfigFile, help="a YAML file; may also stand first without --config")
    parser.add_class_arguments(Settings)
    return parser


def parse_settings(argv: list[str]) -> Settings:
    """Read ``[CONFIG.yaml] [--section.key value …]``; later values win. Exits with code 2 on a fault.

    The paths in the ``config.yaml`` of a run folder are found from any folder, see `app.run_paths`.
    """
    parser = settings_parser()
    if argv and not argv[0].startswith("-"):
        argv = ["--config", *argv]
    argv = list(as_paths(argv))
    config = next((value for option, value in pairwise(argv) if option == "--config"), None)
    if config is not None:
        check_file(parser, config)
    settings = to_settings(parser, parser.parse_args(argv))
    if not settings.run_dir:
        settings.run_dir = f"runs/{Path(config).stem if config else 'run'}"
    try:
        return settings if config is None else find_all(Path(config).parent, settings)
    except UserError as error:
        parser.error(str(error))


def as_paths(argv: list[str]) -> Iterator[str]:
    """Arguments with the paths among them as the parser wants them: the configuration as a word of its own, with its
    home folder; and files whose name means nothing in YAML, such as ``#1.csv`` or ``null``, as ``./#1.csv``."""
    options = {"--config", *(f"--{name}" for name in PATHS)}
    option = ""
    for argument in argv:
        name, equals, value = argument.partition("=")
        if equals and name in options:
            yield name
            option, argument = name, value
        if option == "--config":
            argument = expand_home(argument)
        elif option in options and NOTHING.fullmatch(argument) and os.path.lexists(argument):
            argument = os.path.join(".", argument)
        yield argument
        option = argument


def check_file(parser: SettingsParser, config: str) -> None:
    """Exit unless the file is there and its sections are sections."""
    if not Path(config).is_file():
        parser.error(f"There is no configuration file {config!r}; those that come along are in configs/.")
    try:
        content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        parser.error(f"{config} is not valid YAML: {error}")
    if not isinstance(content, dict):
        parser.error(f"{config} must hold sections (data, model, train) with their settings, got {content!r}.")
    for section in ("data", "model", "train"):
        if section in content and not isinstance(content[section], dict):
            parser.error(f"The section {section!r} of {config} must hold settings, got {content[section]!r}.")


def to_settings(parser: SettingsParser, parsed: Namespace) -> Settings:
    built = parser.instantiate(parsed)
    return Settings(**{f.name: getattr(built, f.name) for f in fields(Settings)})


def flat(settings: Settings) -> dict[str, str | int | float | bool]:
    """All settings by dotted name, for experiment trackers."""
    values: dict[str, str | int | float | bool] = {}
    for name in setting_names(Settings):
        value = attrgetter(name)(settings)
        values[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return values


def differences(before: Settings, after: Settings) -> dict[str, str]:
    """Settings that change what a run computes and are not the same: name → both values, in words."""
    old, new = flat(before), flat(after)
    return {
        name: f"{name} was {old[name]!r}, now {new[name]!r}"
        for name in old
        if name not in INCIDENTAL and old[name] != new[name]
    }


def save_settings(settings: Settings, path: Path) -> None:
    """Write the settings as YAML, itself a configuration: what it did with an older run is not part of it."""
    values = json.loads(json.dumps(asdict(settings)))
    del values["overwrite"]
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def load_settings(path: Path) -> Settings:
    """Read what `save_settings` wrote."""
    parser = settings_parser()
    return to_settings(parser, parser.parse_path(path))
