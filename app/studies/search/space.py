"""The space of a search: settings, and the values that its trials may give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from operator import attrgetter
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from app.settings import Settings
from app.settings_parser import parse_settings, spell
from app.training.trainer import learning_rate_scales
from data.errors import UserError

SCALES = "train.scales."
"""Settings whose default depends on the weights that a part starts from."""
Values = dict[str, Any]
"""Values by the dotted name of the setting."""


@dataclass(frozen=True)
class Base:
    """What all trials share: a configuration, and options of ``train.py``."""

    config: str
    options: tuple[str, ...] = ()

    def settings(self, *options: str) -> Settings:
        """The settings with more options.

        Raises:
            UserError: an option that is refused.
        """
        return parse_settings([self.config, *self.options, *options], exits=False)

    def value(self, name: str, recipe: str | None = None) -> Any:
        """The value of a setting without a search. The scales of learning rates are those that hold.

        Args:
            recipe: another one, which changes other settings as well.
        """
        settings = settings_of(self, *([] if recipe is None else ["--recipe", recipe]))
        if name.startswith(SCALES):
            return learning_rate_scales(settings.train, settings.model)[name.removeprefix(SCALES)]
        return attrgetter(name)(settings)


@cache
def settings_of(base: Base, *options: str) -> Settings:
    """`Base.settings`, remembered."""
    return base.settings(*options)


@dataclass(frozen=True)
class Dimension:
    """A setting, and the values that trials may give it.

    Attributes:
        choices: how a value is written on a command line → the value; empty for a range.
        low, high, log, is_integer: of a range, both ends included.
        when, unless: other settings → the values with which the setting is searched, or is not.
    """

    name: str
    choices: dict[str, Any] = field(default_factory=dict)
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    is_integer: bool = False
    when: dict[str, list] = field(default_factory=dict)
    unless: dict[str, list] = field(default_factory=dict)

    @property
    def distribution(self) -> BaseDistribution:
        """As Optuna describes it; choices are written as on a command line."""
        if self.choices:
            return CategoricalDistribution(list(self.choices))
        if self.is_integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether the setting is searched with these values of the settings in its conditions."""
        is_met = all(values[name] in wanted for name, wanted in self.when.items())
        return is_met and not any(values[name] in refused for name, refused in self.unless.items())

    def holds(self, value: Any) -> bool:
        """Whether a trial may have this value."""
        return spell(value) in self.choices if self.choices else self.low <= value <= self.high

    def with_value(self, value: Any) -> Dimension:
        """The dimension with a value that certainly belongs to it."""
        if self.choices:
            return replace(self, choices={spell(value): value} | self.choices)
        if not isinstance(value, int | float):
            raise UserError(f"{self.name} is {spell(value)}, which a range cannot hold: give choices.")
        if self.log and value <= 0:
            raise UserError(f"{self.name} is {spell(value)}, which a range with log: true cannot hold.")
        return replace(self, low=min(self.low, value), high=max(self.high, value))


@dataclass(frozen=True)
class Space:
    """The dimensions of a search, in the order of their conditions.

    Attributes:
        base: what all trials share, with ``fixed``.
        fixed: options of ``train.py`` for the settings to which the space gives one value.
    """

    base: Base
    dimensions: tuple[Dimension, ...]
    fixed: tuple[str, ...] = ()

    def suggest(self, trial: Trial) -> Values:
        """Values of a trial for the settings that are searched with them."""
        values: Values = {}
        for dimension in self.dimensions:
            if not dimension.applies(self.conditions(dimension, values)):
                continue
            name, parts = dimension.name, (dimension.low, dimension.high)
            if dimension.choices:
                values[name] = dimension.choices[trial.suggest_categorical(name, list(dimension.choices))]
            elif dimension.is_integer:
                values[name] = trial.suggest_int(name, *map(int, parts), log=dimension.log)
            else:
                values[name] = trial.suggest_float(name, *parts, log=dimension.log)
        return values

    def default(self, **changes: Any) -> dict[str, Any]:
        """The parameters of the trial with the values of the configuration, without those that are outside the space.

        Args:
            changes: values in their place, by name.
        """
        values: Values = {}
        for dimension in self.dimensions:
            if dimension.applies(self.conditions(dimension, values)):
                name = dimension.name
                value = changes.get(name, self.base.value(name, values.get("recipe")))
                if dimension.holds(value):
                    values[name] = value
        chosen = {dimension.name for dimension in self.dimensions if dimension.choices}
        return {name: spell(value) if name in chosen else value for name, value in values.items()}

    def conditions(self, dimension: Dimension, values: Values) -> Values:
        """The values of the settings in the conditions of a dimension."""
        recipe, names = values.get("recipe"), {*dimension.when, *dimension.unless}
        return {name: values[name] if name in values else self.base.value(name, recipe) for name in names}

    def options(self, values: Values) -> list[str]:
        """The options of ``train.py`` that give the settings these values."""
        return [part for name, value in values.items() for part in (f"--{name}", spell(value))]

    def description(self) -> dict[str, Any]:
        """What two searches have in common if their spaces are the same."""
        return {
            dimension.name: {
                "choices": list(dimension.choices),
                "range": [dimension.low, dimension.high, dimension.log],
                "when": dimension.when,
                "unless": dimension.unless,
            }
            for dimension in self.dimensions
        }
