"""Read the space of a search: the default one, and the file with which a user changes it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from app.settings import Settings, setting_names
from app.settings_parser import parse_settings, settings_parser, spell, suggest
from app.studies.search.space import Base, Dimension, Space, settings_of
from data.errors import UserError

DEFAULT = Path(__file__).resolve().parents[3] / "configs" / "spaces" / "default.yaml"
"""The space without ``--space``, which the files of users change."""
RANGE, CHOICES, CONDITIONS = {"low", "high", "log"}, {"choices"}, {"when", "unless"}
"""Keys of an entry."""
EXAMPLE = "when: {model.fusion: [cross, self]}"
"""A condition, for messages."""


def read_space(path: Path | None, base: Base) -> Space:
    """The default space, changed by a file.

    Raises:
        UserError: no such file, or an entry that cannot be searched; the message names it.
    """
    entries = read_entries(DEFAULT)
    if path is not None:
        own = read_entries(path)
        extends = own.pop("extends", "default")
        if extends not in ("default", "none"):
            raise UserError(f"{path}: extends is default or none, got {extends!r}.")
        entries = dict(merge(entries if extends == "default" else {}, own))
    place, valid = str(path or DEFAULT), searchable_names()
    for name in entries:
        if name not in valid:
            raise UserError(f"{place}: this cannot be searched{suggest(name, valid)}")
    fixed = {name: entry for name, entry in entries.items() if not isinstance(entry, dict)}
    options = tuple(part for name, value in fixed.items() for part in (f"--{name}", spell(value)))
    settings_of(base)  # its errors are not those of the space
    base = replace(base, options=(*base.options, *options))
    try:
        settings_of(base)
        searched = {name: entry for name, entry in entries.items() if name not in fixed}
        found = [dimension_of(name, entry, base, valid) for name, entry in searched.items()]
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    if not found:
        raise UserError(f"{place}: there is nothing to search: every setting has one value.")
    return Space(base, tuple(in_order(found, place)), options)


def read_entries(path: Path) -> dict[str, Any]:
    """The entries of a file.

    Raises:
        UserError: no such file, or one that is no mapping.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"The space {path} cannot be read: {error}") from error
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise UserError(f"{path}: a space maps settings, such as train.learning_rate, to their values.")
    return entries


def merge(before: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Entries in their order, changed by others, which keep the conditions unless they give their own."""
    for name, entry in (dict(before) | dict(own)).items():
        if name in own and entry is None:
            continue
        if isinstance(entry, dict) and isinstance(before.get(name), dict):
            kept = {key: value for key, value in before[name].items() if key in CONDITIONS}
            entry = kept | entry
        yield name, entry


def searchable_names() -> list[str]:
    """Settings of the model and of its training, which a search may change."""
    names = [name for name in setting_names(Settings) if name.startswith(("model.", "train."))]
    kept = {"model.init", "train.seed", "train.best_by", "train.trackers"}
    return ["recipe", *(name for name in names if name not in kept)]


def dimension_of(name: str, entry: Mapping[str, Any], base: Base, valid: Sequence[str]) -> Dimension:
    """A dimension from an entry, with the value of the configuration among its own.

    Raises:
        UserError: an entry that is no dimension, or a value that the settings refuse.
    """
    if unknown := [key for key in entry if key not in RANGE | CHOICES | CONDITIONS]:
        raise UserError(
            f"{name}: unknown key {unknown[0]!r}; an entry has choices, or low and high, log, when, unless."
        )
    if "choices" in entry:
        choices = entry["choices"]
        if not isinstance(choices, list) or not choices or RANGE & set(entry):
            raise UserError(f"{name}: choices are a list of at least one value, without low and high.")
        values = [read_value(name, value) for value in choices]
        found = Dimension(name, {spell(value): value for value in values})
    else:
        low, high = (as_number(entry.get(end)) for end in ("low", "high"))
        if not (is_number(low) and is_number(high)):
            raise UserError(f"{name}: a range has numbers as low and high, got {low!r} and {high!r}.")
        if not low < high:
            raise UserError(f"{name}: an empty range: low {low} is not below high {high}.")
        if entry.get("log") and low <= 0:
            raise UserError(f"{name}: a range with log: true starts above 0, got low {low}.")
        values = [low, high]
        for value in values:
            read_value(name, value)
        found = Dimension(name, low=low, high=high, log=bool(entry.get("log")))
    own = base.value(name)
    when, unless = (dict(conditions_of(name, entry.get(key) or {}, valid)) for key in ("when", "unless"))
    found = replace(found, when=when, unless=unless)
    if not found.choices:
        is_integer = all(is_number(number) and isinstance(number, int) for number in (own, *values))
        found = replace(found, is_integer=is_integer)
    is_searched = found.applies({other: base.value(other) for other in (*found.when, *found.unless)})
    return found.with_value(own) if is_searched else found


def read_value(name: str, value: Any) -> Any:
    """The value that ``train.py`` gives a setting for a value of YAML: a number for 1e-3, which YAML reads as a text.

    Raises:
        UserError: a value that the setting cannot have.
    """
    try:
        if name == "recipe":
            return parse_settings(["--recipe", spell(value)], exits=False).recipe
        return settings_parser(exits=False).parse_args([f"--{name}", spell(value)])[name]
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def as_number(value: Any) -> Any:
    """A value of YAML, or the number that ``train.py`` reads where YAML reads a text, such as 1e-3."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of YAML is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def conditions_of(name: str, conditions: Any, valid: Sequence[str]) -> Iterator[tuple[str, list]]:
    """Conditions, each with a list of values.

    Raises:
        UserError: no mapping, a setting that does not exist, or a value that it cannot have.
    """
    if not isinstance(conditions, dict):
        raise UserError(f"{name}: a condition maps a setting to its values, such as {EXAMPLE}, got {conditions!r}.")
    for other, values in conditions.items():
        if other not in valid:
            raise UserError(f"{name}: a condition{suggest(str(other), list(valid))}")
        try:
            yield other, [read_value(other, value) for value in (values if isinstance(values, list) else [values])]
        except UserError as error:
            raise UserError(f"{name}: the condition {error}") from error


def in_order(dimensions: Sequence[Dimension], place: str) -> Iterator[Dimension]:
    """The dimensions, each after those that its conditions name.

    Raises:
        UserError: conditions in a circle.
    """
    left = list(dimensions)
    while left:
        open_names = {dimension.name for dimension in left}
        ready = [d for d in left if not (open_names - {d.name}) & {*d.when, *d.unless}]
        if not ready:
            raise UserError(f"{place}: the conditions of {', '.join(sorted(open_names))} depend on each other.")
        yield from ready
        left = [dimension for dimension in left if dimension not in ready]
