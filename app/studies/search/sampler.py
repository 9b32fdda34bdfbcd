"""How the values of trials are chosen, at random or by what the trials so far have shown, and which end early."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

SamplerName = Literal["tpe", "random"]
PrunerName = Literal["hyperband", "none"]


class SamplerByNumber(BaseSampler):
    """Draws the values of each trial with a seed of its own, from that of the search and the number of the trial.

    With one seed for a process, those that begin a study at the same moment would all draw the same values.

    Args:
        make: makes a sampler from its ``seed``.
        seed: of the search, at least 0.
    """

    def __init__(self, make: Callable[..., BaseSampler], seed: int):
        self.make = make
        self.seed = seed
        self.own = make(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        mixed = np.random.SeedSequence([self.seed, trial.number])  # a sum would repeat the trials of the next seed
        self.own = self.make(seed=int(mixed.generate_state(1)[0]))
        self.own.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.own.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.own.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.own.sample_independent(study, trial, param_name, param_distribution)


def sampler_of(name: SamplerName, seed: int) -> BaseSampler:
    """Tree-structured Parzen estimators over the settings together (Bergstra et al. 2011, Falkner et al. 2018)."""
    if name == "random":
        return SamplerByNumber(RandomSampler, seed)
    return SamplerByNumber(partial(TPESampler, multivariate=True, group=True, constant_liar=True), seed)


def pruner_of(name: PrunerName) -> BasePruner:
    """Hyperband over epochs (Li et al. 2018)."""
    return NopPruner() if name == "none" else HyperbandPruner(min_resource=1)
