"""Read settings from the command line, configuration files and recipes, and write them."""

import difflib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from app.processes import reports_errors
from app.run_paths import PATHS, find_all
from app.settings import Settings
from data.errors import UserError
from data.paths import expand_home

RECIPES = Path(__file__).resolve().parent.parent / "configs" / "recipes"
"""Folder of the recipes, a configuration each."""
NOTHING = re.compile(r"(?s)#.*|~|null|Null|NULL")
"""Strings that YAML reads as no value."""


class SettingsParser(ArgumentParser):
    """A parser without abbreviations, whose errors suggest the nearest valid option.

    In several processes only the first of each machine prints an error.

    Args:
        exits: whether an error ends the process with its message; otherwise it is raised as a `UserError`.
    """

    def __init__(self, *args: Any, exits: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.exits = exits

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        if unknown := re.search(r"unrecognized arguments: --([\w.]+)", message):
            message += suggest(unknown[1], self.option_names())
        elif unknown := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
            message += suggest(f"{unknown[1]}.{unknown[2]}", self.option_names())
        elif unknown := re.search(r"Option '([\w.]+)' is not accepted", message):
            message += suggest(unknown[1], self.option_names())
        if not self.exits:
            raise UserError(message)
        if not reports_errors():
            sys.exit(2)
        super().error(message, ex)

    def option_names(self) -> list[str]:
        """Dotted names of all options, without their groups."""
        names = [action.dest for action in self._actions if action.option_strings]
        return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def suggest(unknown: str, valid: list[str]) -> str:
    """A sentence that suggests the valid key nearest to an unknown one, by its last word or as a whole."""
    last_words = [key.rpartition(".")[2] for key in valid]
    last_word = difflib.get_close_matches(unknown.rpartition(".")[2], last_words, n=1)
    with_it = [key for key, word in zip(valid, last_words, strict=True) if word in last_word]
    near = difflib.get_close_matches(unknown, with_it, n=1, cutoff=0) or difflib.get_close_matches(unknown, valid, n=1)
    return f". Unknown key {unknown!r}" + (f"; did you mean {near[0]!r}?" if near else ".")


@cache
def settings_parser(exits: bool = True) -> SettingsParser:
    """The parser of ``train.py``; see `SettingsParser`."""
    parser = SettingsParser(
        exits=exits,
        prog="train.py",
        usage="python train.py [CONFIG.yaml] [--section.key value ...]",
        description="Fine-tune an image+text classifier. Start with configs/quickstart.yaml, or with your own table: "
        "python train.py --data.train train.csv --data.test test.csv",
    )
    parser.add_argument("--config", action=ActionConfigFile, help="a YAML file; --config may be omitted before it")
    parser.add_class_arguments(Settings)
    return parser


def parse_settings(argv: list[str], exits: bool = True) -> Settings:
    """Parse ``[CONFIG.yaml] [--section.key value …]``; later values override earlier ones.

    Paths in the ``config.yaml`` of a run folder are resolved from any current folder (`app.run_paths`).

    Raises:
        SystemExit: with code 2 and a message, if an argument or the file is invalid.
        UserError: the same, unless ``exits``.
    """
    parser = settings_parser(exits)
    if argv and not argv[0].startswith("-"):
        argv = ["--config", *argv]
    argv = list(as_paths(argv))
    config = next((value for option, value in pairwise(argv) if option == "--config"), None)
    if config is not None:
        check_file(parser, config)
    if recipe := recipe_name(argv, config):
        argv = ["--config", str(recipe_file(parser, recipe)), *argv]
    parsed = parser.parse_args(argv)
    try:
        settings = to_settings(parser, parsed)
        if not settings.run_dir:
            settings.run_dir = f"runs/{Path(config).stem if config else 'run'}"
        return settings if config is None else find_all(Path(config).parent, settings)
    except UserError as error:
        parser.error(str(error))


def given_options(argv: list[str]) -> set[str]:
    """The options that a command line names itself, such as ``model.image_size``."""
    return {argument.removeprefix("--").partition("=")[0] for argument in argv if argument.startswith("--")}


def as_paths(argv: list[str]) -> Iterator[str]:
    """Arguments in the form that the parser needs.

    ``--option=PATH`` becomes two arguments, the home folder of the configuration is expanded, and a file whose name
    YAML reads as no value, such as ``#1.csv`` or ``null``, becomes ``./#1.csv``. ``--context.NAME`` is short for
    ``--data.context.NAME``.
    """
    options = {"--config", "--run_dir", *(f"--{name}" for name in PATHS)}
    option = ""
    for argument in argv:
        if argument.startswith("--context."):
            argument = f"--data.{argument.removeprefix('--')}"
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
    """Exit with a message unless the file exists and its sections are mappings."""
    if not Path(config).is_file():
        parser.error(f"There is no configuration file {config!r}; the folder configs/ has examples.")
    try:
        content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        parser.error(f"{config} is not valid YAML: {error}")
    if not isinstance(content, dict):
        parser.error(f"{config} must hold sections (data, model, train) with their settings, got {content!r}.")
    for section in ("data", "model", "train"):
        if section in content and not isinstance(content[section], dict):
            parser.error(f"The section {section!r} of {config} must hold settings, got {content[section]!r}.")


def recipe_name(argv: list[str], config: str | None) -> str:
    """The recipe that the command line names, or else the configuration file; empty without one."""
    named = [value for option, value in pairwise(argv) if option == "--recipe"]
    named += [argument.partition("=")[2] for argument in argv if argument.startswith("--recipe=")]
    if named or config is None:
        return named[-1] if named else ""
    return yaml.safe_load(Path(config).read_text(encoding="utf-8")).get("recipe") or ""


def recipe_file(parser: SettingsParser, name: str) -> Path:
    """The configuration of a recipe; exit with a message if there is none of this name."""
    recipes = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
    if name not in recipes:
        near = difflib.get_close_matches(name, recipes, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else "."
        parser.error(f"There is no recipe {name!r}{meant} {RECIPES} has {', '.join(recipes)}.")
    return recipes[name]


def spell(value: object) -> str:
    """A value as it is written on a command line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=Namespace.as_dict)


def split_options(text: str) -> list[str]:
    """The options of ``train.py`` that a text holds, as a shell reads them.

    Raises:
        UserError: a quotation mark without a second one, or a backslash at the end.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(
            f"The options {text!r} cannot be read as a shell reads them: {str(error).lower()}. Close each quotation "
            "mark."
        ) from error


def to_settings(parser: SettingsParser, parsed: Namespace) -> Settings:
    built = parser.instantiate(parsed)
    return Settings(**{f.name: getattr(built, f.name) for f in fields(Settings)})


def save_settings(settings: Settings, path: Path) -> None:
    """Write the settings as a YAML configuration, without ``overwrite``."""
    values = json.loads(json.dumps(asdict(settings)))
    del values["overwrite"]
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


BEFORE = [
    ("train", "batch_rows", 0),
    ("train", "linear_start", False),
    ("model", "classifier", "mixture"),
    ("model", "classifier_product", False),
]
"""What earlier versions did without a setting: section, name, value."""


def load_settings(path: Path, exits: bool = True) -> Settings:
    """Read settings that `save_settings` wrote; settings that an earlier version did not have are as it trained.

    Raises:
        SystemExit: with code 2 and a message, if this version does not know a setting or its value.
        UserError: the same, unless ``exits``.
    """
    parser, values = settings_parser(exits), yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for section, name, value in BEFORE:
        values.setdefault(section, {}).setdefault(name, value)
    return to_settings(parser, parser.parse_object(values))
