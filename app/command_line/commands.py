"""A command line made of commands, each with a dataclass of options: parsing, help and errors."""

import inspect
import json
import sys
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from docstring_parser import parse_from_object
from jsonargparse import DefaultHelpFormatter, Namespace

from app.processes import reports_errors
from app.settings import Settings, setting_names
from app.settings_parser import SettingsParser, as_paths, spell
from data.errors import UserError


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        options: dataclass with a docstring for the command and one below each field; these are the help.
        run: called with the options, and with those of ``train.py`` where the command takes them.
        takes_training: whether the command also takes the options of ``train.py``.
    """

    options: type
    run: Callable[..., Any]
    takes_training: bool = False


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keep the line breaks of descriptions; leave out defaults that mean "not given"."""

    def _expand_help(self, action):
        text = super()._expand_help(action)
        for shown, wanted in ((", default: )", ")"), (", default: null)", ")"), ("default: False", "default: false")):
            text = text.replace(shown, wanted)
        return text.replace("default: True", "default: true")


def positional(default: Any = MISSING) -> Any:
    """A dataclass field that is given without ``--name``; required if it has no default."""
    return field(default=default, metadata={"positional": True})


def run_commands(prog: str, description: str, commands: Mapping[str, Command], argv: Sequence[str]) -> Any:
    """Parse a command line, run its command and return what that returns.

    A `UserError` ends the process with its message and exit code 2, like an invalid option. Other exceptions keep
    their traceback.
    """
    parser = SettingsParser(prog=prog, description=description, formatter_class=HelpFormatter)
    subcommands = parser.add_subcommands(dest="command", metavar="COMMAND")
    built = {argv[0]: commands[argv[0]]} if argv and argv[0] in commands else commands  # the other parsers are slow
    for name, command in built.items():
        summary = inspect.getdoc(command.options).partition("\n")[0].rstrip(".")  # type: ignore[union-attr]
        subcommands.add_subcommand(name, command_parser(f"{prog} {name}", command), help=summary)
    if argv and argv[0] in commands and commands[argv[0]].takes_training:
        argv = list(as_paths(list(argv)))
    elif argv and argv[0] in commands:
        argv = list(quote_contexts(argv))
    parsed = parser.parse_args(argv)
    command, values = commands[parsed.command], parser.instantiate(parsed)[parsed.command]
    if not command.takes_training and values.get("context"):
        values["context"] = {name: json.loads(text) for name, text in values["context"].items()}
    arguments = [command.options(**{f.name: values[f.name] for f in fields(command.options)})]
    if command.takes_training:
        given = parser.parse_args(argv, defaults=False)[parsed.command]
        arguments.append(list(spell_options(given, setting_names(Settings))))
    try:
        return command.run(*arguments)
    except UserError as error:
        if reports_errors():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def quote_contexts(argv: Sequence[str]) -> Iterator[str]:
    """Values of ``--context.NAME`` as JSON strings, so that a text such as "note: none" is not read as a mapping."""
    is_value = False
    for argument in argv:
        option, equals, value = argument.partition("=")
        if is_value:
            yield json.dumps(argument, ensure_ascii=False)
        elif option.startswith("--context.") and equals:
            yield f"{option}={json.dumps(value, ensure_ascii=False)}"
        else:
            yield argument
        is_value = not is_value and option.startswith("--context.") and not equals


def command_parser(prog: str, command: Command) -> SettingsParser:
    """The parser of one command."""
    described = {param.arg_name: param.description for param in parse_from_object(command.options).params}
    places = [f for f in fields(command.options) if f.metadata.get("positional")]
    usage = " ".join([prog, *map(usage_of, places), "[options]"])
    parser = SettingsParser(usage=usage, description=inspect.getdoc(command.options), formatter_class=HelpFormatter)
    for place in places:
        optional = {} if place.default is MISSING else {"nargs": "?", "default": place.default}
        parser.add_argument(place.name, type=place.type, help=described[place.name], **optional)  # type: ignore
    parser.add_class_arguments(command.options, as_group=False, skip={place.name for place in places})
    own = len(parser._actions)
    if command.takes_training:
        has_output = "output" in {f.name for f in fields(command.options)}
        parser.add_class_arguments(Settings, skip={"run_dir"} if has_output else set())
    for number, action in enumerate(parser._actions):
        if number >= own or action.dest == "data":  # train.py lists its options; --data FILE is not for these commands
            action.help = SUPPRESS
    return parser


def usage_of(place: Field) -> str:
    """A positional argument in the usage line."""
    return place.name.upper() if place.default is MISSING else f"[{place.name.upper()}]"


def spell_options(given: Namespace, names: Sequence[str]) -> Iterator[str]:
    """The options among these names that were given, as they are written on a command line."""
    for name, value in given.items():
        if name in names:
            yield from (f"--{name}", spell(value))
