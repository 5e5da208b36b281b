"""Which activation at which site under a budget: a search over sites x choices with two objectives.

The objectives are the validation loss after a short tuning, and the cost of the activations. The first assignments are
those that the one-pass scores recommend; then one of Optuna's multi-objective samplers goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import TrialState
from torch import nn

from actswap.capture.duplicate import duplicate
from actswap.conversion.pipeline import convert
from actswap.conversion.survey import Sites, scan
from actswap.errors import UsageError, first_line
from actswap.search.children import EXAMPLES, example_of, schedules_of
from actswap.search.front import pareto_front
from actswap.search.site_costs import KEEP, Costs
from actswap.search.workers import alive, take_over_dead
from actswap.sites import Progress, Site
from actswap.train import Data, TuneConfig, tune

_LOST = 1e9  # loss of an assignment that diverged: a storage cannot hold infinity everywhere
_ATTEMPTS = 50  # draws for each trial until one is within the budget


@dataclass(frozen=True)
class Assigned:
    """One assignment that was tried.

    Attributes:
        targets: target by site; sites that are kept are absent.
        loss: validation loss after tuning.
        score: validation accuracy after tuning; NaN if the data have a loss of their own.
        cost: of all sites together.
        trial: number of the trial; with the seed it determines the tuning.
        error: why it failed.
    """

    targets: Mapping[str, str]
    loss: float
    score: float
    cost: float
    trial: int
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class Assignment:
    """A search for assignments.

    Attributes:
        model: the pretrained network; not changed.
        data: training and validation sets.
        sites: the sites that may change.
        choices: targets with their options, and `keep`.
        costs: by (site, choice).
        tune: the short tuning.
        budget: largest cost; None is no limit.
        scores: one-pass scores by (site, choice); they choose the first assignments.
        seed: of the sampler and the tunings.
        scanned: what `scan` returned for the model.
    """

    model: nn.Module
    data: Data
    sites: tuple[Site, ...]
    choices: tuple[str, ...]
    costs: Costs
    tune: TuneConfig
    budget: float | None = None
    scores: Mapping[tuple[str, str], float] = field(default_factory=dict)
    seed: int = 0
    scanned: Sites | None = None

    def cost(self, choice: Mapping[str, str]) -> float:
        """Return the cost of a choice by site."""
        return sum(self.costs[site.name, choice[site.name]] for site in self.sites)

    def train(self, targets: Mapping[str, str], number: int) -> tuple[nn.Module, dict[str, float]]:
        """Convert and tune; return the network and its validation scores.

        Args:
            targets: target by site.
            number: seeds the tuning together with the seed of the search.
        """
        seed = (self.seed * 1_000_003 + number) & 0x7FFFFFFF
        if targets:
            example = example_of(self.data, EXAMPLES)
            model = convert(self.model, dict(targets), example, verify=False, seed=seed, scanned=self.scanned).model
        else:
            model = duplicate(self.model)
        schedules = schedules_of(self.tune.schedules, model, 0)
        report = tune(model, self.data, replace(self.tune, seed=seed, schedules=schedules))
        return model, dict(report.after)


def sampler_of_assignments(name: str, seed: int) -> BaseSampler:
    """Return a sampler for two objectives: `evolution` (NSGA-II), `tpe` or `random`."""
    known = ("evolution", "tpe", "random")
    if name not in known:
        raise UsageError(f"unknown sampler {name!r}", fix=f"one of {', '.join(known)}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if name == "evolution":
        return NSGAIISampler(population_size=16, seed=seed)
    return TPESampler(multivariate=True, seed=seed) if name == "tpe" else RandomSampler(seed=seed)


def open_assignment(
    search: Assignment, sampler: str = "evolution", storage: BaseStorage | None = None, name: str = "assign"
) -> Study:
    """Create the search, or go on with the one of this name.

    Raises:
        UsageError: nothing is within the budget, or the storage holds another search of this name.
    """
    cheapest = {s.name: min(search.choices, key=lambda c: search.costs[s.name, c]) for s in search.sites}
    if search.budget is not None and search.cost(cheapest) > search.budget:
        raise UsageError(
            f"no assignment costs {search.budget:g} or less",
            why=f"the cheapest costs {search.cost(cheapest):g}",
            fix=f"--budget {search.cost(cheapest) * 1.1:.3g}, or a cheaper choice",
        )
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=["minimize", "minimize"],
        sampler=sampler_of_assignments(sampler, search.seed),
        load_if_exists=True,
    )
    made_with = json.dumps(
        {"sites": [s.name for s in search.sites], "choices": search.choices, "tune": search.tune.to_dict(),
         "seed": search.seed, "sampler": sampler}, sort_keys=True,
    )  # fmt: skip
    before = study.user_attrs.get("assign")
    if before is not None and before != made_with:
        raise UsageError(f"the storage holds another search of the name {name!r}", fix="--name ANOTHER")
    if before is None:
        study.set_user_attr("assign", made_with)
        for choice in first_assignments(search):
            study.enqueue_trial({site.name: choice[site.name] for site in search.sites})
    return study


def first_assignments(search: Assignment) -> list[dict[str, str]]:
    """Return what is tried first: nothing changed, each choice everywhere, and the best of the one-pass scores.

    Beginning with nothing changed, the exchange that promises most for its cost is added, one after the other, until
    none promises anything or the budget is spent; every second of these assignments is tried.
    """
    keep = KEEP if KEEP in search.choices else search.choices[0]
    found = [dict.fromkeys((s.name for s in search.sites), choice) for choice in search.choices]
    current = dict.fromkeys((s.name for s in search.sites), keep)
    chain = []
    while search.scores:
        gains = []
        for site in search.sites:
            for choice in search.choices:
                gain = search.scores[site.name, current[site.name]] - search.scores[site.name, choice]
                added = search.costs[site.name, choice] - search.costs[site.name, current[site.name]]
                if gain > 0 and current[site.name] == keep and _within(search, {**current, site.name: choice}):
                    gains.append((gain / max(added, 1e-12) if added > 0 else math.inf, gain, site.name, choice))
        if not gains:
            break
        _, _, name, choice = max(gains)
        current = {**current, name: choice}
        chain.append(current)
    for one in [*chain[-1:], *chain[::2]]:
        if one not in found:
            found.append(one)
    return [one for one in found if _within(search, one)]


def _within(search: Assignment, choice: Mapping[str, str]) -> bool:
    return search.budget is None or search.cost(choice) <= search.budget


def work_on_assignment(study: Study, search: Assignment, trials: int, progress: Progress | None = None) -> None:
    """Try assignments until there are so many; one that fails has a large loss and stops nothing.

    Args:
        study: from `open_assignment`.
        search: what is searched.
        trials: how many assignments are to be tried in all; equal ones count once.
        progress: called with (done, total, text).
    """
    most = min(trials, len(search.choices) ** len(search.sites))
    for _ in range(_ATTEMPTS * most):
        take_over_dead(study)
        done = tried_assignments(study)
        if progress is not None and done:
            progress(len(done), most, f"smallest loss {min(a.loss for a in done):.4f}")
        if len(done) >= most:
            return
        trial = study.ask()
        choice = {s.name: str(trial.suggest_categorical(s.name, search.choices)) for s in search.sites}
        stands = {site.name: (KEEP, site.source.kind) for site in search.sites}  # a ReLU does not become a ReLU
        targets = {name: target for name, target in choice.items() if target not in stands[name]}
        if not _within(search, choice) or any(dict(one.targets) == targets for one in done):
            study.tell(trial, state=TrialState.FAIL)
            continue
        trial.set_user_attr("targets", targets)
        number = int(study._storage.get_trial(trial._trial_id).user_attrs.get("first", trial.number))
        trial.set_user_attr("first", number)
        loss = _LOST
        with alive(trial):
            try:
                _, after = search.train(targets, number)
                if math.isfinite(after["loss"]):
                    loss = min(after["loss"], _LOST)
                trial.set_user_attr("score", after.get("score", math.nan))
            except Exception as error:  # whatever an assignment does to its network, the search goes on
                trial.set_user_attr("error", first_line(error))
        study.tell(trial, [loss, search.cost(choice)])


def tried_assignments(study: Study) -> list[Assigned]:
    """Return every assignment that was tuned, in the order of the trials."""
    return [
        Assigned(
            dict(t.user_attrs["targets"]),
            t.values[0],
            float(t.user_attrs.get("score", math.nan)),
            t.values[1],
            int(t.user_attrs["first"]),
            str(t.user_attrs.get("error", "")),
        )
        for t in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    ]


def front_of(tried: Sequence[Assigned]) -> list[Assigned]:
    """Return the assignments of which none is both better and cheaper, the cheapest first.

    Of equal ones that with the fewest changes is kept.
    """
    usable = sorted((one for one in tried if not one.error and one.loss < _LOST), key=lambda one: len(one.targets))
    kept = [usable[i] for i in pareto_front([(one.loss, one.cost) for one in usable])]
    return sorted(kept, key=lambda one: one.cost)


def scan_of(model: nn.Module, data: Data) -> Sites:
    """Scan a network on a few training items."""
    return scan(model, example_of(data, EXAMPLES))


def costs_of(storage: BaseStorage | None, name: str) -> Costs | None:
    """Return the costs that an earlier run of the search measured, so that all its trials have the same ones."""
    if storage is None or name not in optuna.get_all_study_names(storage):
        return None
    rows = optuna.load_study(study_name=name, storage=storage).user_attrs.get("costs")
    return None if rows is None else {(site, choice): float(cost) for site, choice, cost in rows}


def keep_costs(study: Study, costs: Costs) -> None:
    """Write the costs beside the search."""
    study.set_user_attr("costs", [[site, choice, cost] for (site, choice), cost in costs.items()])
