"""Survey a model: find every activation call as a site, and how each can be reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from actswap.capture.arguments import Arguments, Marker, Signature
from actswap.capture.evaluating import one_at_a_time
from actswap.capture.island import Traced
from actswap.capture.observe import observe
from actswap.capture.rewrite import plan_rewrites
from actswap.capture.state import refuse_uninitialized
from actswap.capture.tape import Tape
from actswap.capture.wrappers import is_sharded, network_in, without_wrappers
from actswap.checks.precision import AS_FLOAT32, low_precision, runs_in_float32
from actswap.conversion.passes.isolate import check_island
from actswap.conversion.training_only import (
    observe_training,
    only_in_training,
    shared_in_training,
    sites_of,
)
from actswap.errors import CaptureError
from actswap.inputs import as_inputs
from actswap.plan import Island
from actswap.recognize.locate import Located, locate, recurrent_sites, scripted_sites
from actswap.sites import Site

_PLAIN = (bool, int, float, str, torch.dtype, torch.device, Marker)
_MOST_CALLS = 8  # an owner called in more ways than this has arguments that depend on the data


@dataclass(frozen=True)
class Survey:
    """What one observed run shows.

    Attributes:
        sites: all activation calls in the order in which they first run.
        islands: by owner, how to reach the sites that need one.
        traces: by owner, the forward of its island as it was traced on this model object.
        tape: the run itself.
        located: by owner, all activation-like calls in order.
        training: the sites of the run in train mode, None if the model does not run in train mode.
    """

    sites: tuple[Site, ...]
    islands: Mapping[str, Island]
    traces: Mapping[str, Sequence[Traced]]
    tape: Tape
    located: Mapping[str, Located]
    training: tuple[Site, ...] | None = None

    @property
    def model(self) -> nn.Module:
        """The model that was observed."""
        return self.tape.calls[0].module

    @property
    def portable(self) -> bool:
        """True if it holds for a copy of the model too: no island is bound to an object of the model."""
        leaves = (leaf for island in self.islands.values() for call in island.calls for leaf in call.leaves)
        return all(leaf is None or isinstance(leaf, _PLAIN) for leaf in leaves)


class Sites(list[Site]):
    """The sites of a model, with the survey they come from; `convert(..., scanned=sites)` goes on from there."""

    def __init__(self, found: Survey) -> None:
        super().__init__(found.sites)
        self.survey = found


def survey(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], training: Tape | None = None) -> Survey:
    """Observe one forward pass in eval mode and one in train mode, and find out how each call can be replaced.

    Args:
        model: any module; it is not changed.
        args: positional inputs.
        kwargs: keyword inputs.
        training: the run in train mode, if it was observed already.

    Returns:
        The survey.

    Raises:
        CaptureError: the model does not run on these inputs.
    """
    with one_at_a_time(model):
        try:
            return _survey(model, args, kwargs, training)
        except CaptureError as error:
            if low_precision(model) is None or runs_in_float32(model, args, kwargs) is None:
                raise
            name = str(low_precision(model)).removeprefix("torch.")
            why = f"{error.why}; in float32 it runs, in {name} it does not on this processor".lstrip("; ")
            raise CaptureError(error.what, where=error.where, why=why, fix=AS_FLOAT32, add="--dtype float32") from error


def _survey(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], training: Tape | None) -> Survey:
    training = training or observe_training(model, args, kwargs)
    trained = None if training is None else tuple(sites_of(model, training))
    shared = shared_in_training(model, trained or ())
    tape = observe(model, args, kwargs, spots=True)
    sites: list[tuple[int, Site]] = []
    islands: dict[str, Island] = {}
    traces: dict[str, Sequence[Traced]] = {}
    unreached: dict[tuple[str, int], str] = {}
    located = {found.owner: found for found in locate(model, tape)}
    for owner, found in located.items():
        here = [
            (at, replace(s, how="island") if s.how == "swap" and (s.owner, s.child) in shared else s)
            for at, s in zip(found.when, found.sites, strict=True)
            if s is not None
        ]
        needed = [s.ordinal for _, s in here if s.how == "island"]
        if needed:
            way = reach(model, found, tape, needed)
            unreached.update({(owner, ordinal): reason for ordinal, reason in way.missed.items()})
            if way.island is not None:
                islands[owner], traces[owner] = way.island, way.traces
        sites += here
    sites += recurrent_sites(tape) + scripted_sites(tape)
    ordered = [site for _, site in sorted(sites, key=lambda entry: entry[0])]
    settled = [
        replace(s, how="left", reason=unreached[s.owner, s.ordinal])
        if s.how == "island" and (s.owner, s.ordinal) in unreached
        else s
        for s in ordered
    ]
    settled += only_in_training(trained or (), settled)
    return Survey(tuple(settled), islands, traces, tape, located, trained)


@dataclass(frozen=True)
class Way:
    """How the calls of one owner are reached: the island, its traces, and the calls that it does not reach."""

    island: Island | None
    traces: Sequence[Traced]
    missed: Mapping[int, str]


def reach(model: nn.Module, found: Located, tape: Tape, needed: Sequence[int]) -> Way:
    """Find the way to the calls of an owner that no swap reaches.

    Its source is rewritten if that reaches all of them. Else its forward is traced, if a trace loses nothing of it.
    Else the source is rewritten as far as that reaches.

    Args:
        model: the model.
        found: what the tape says about the owner.
        tape: the observed run.
        needed: ordinals of the calls.

    Returns:
        The island, its traces, and the calls that it does not reach, with the reasons.
    """
    try:
        rewrite, missed = rewrite_of(model, found)
    except CaptureError as error:
        rewrite, missed = None, dict.fromkeys(needed, error.what)
    missed = {ordinal: reason for ordinal, reason in missed.items() if ordinal in needed}
    if rewrite is not None and not missed:
        return Way(rewrite, (), {})
    try:
        return Way(*island_of(model, found, tape), {})
    except CaptureError as error:
        second = f"nor can its forward be traced: {error.why or error.what}"
        return Way(rewrite, (), {ordinal: f"{reason}; {second}" for ordinal, reason in missed.items()})


def rewrite_of(model: nn.Module, found: Located) -> tuple[Island, dict[int, str]]:
    """Describe an owner whose source is rewritten, and the calls that the rewriting does not reach, with the reason.

    Raises:
        CaptureError: the rewriting reaches no call.
    """
    owner = model.get_submodule(found.owner)
    if isinstance(owner, fx.GraphModule):
        raise CaptureError("its forward is made from a graph")
    rewrites, missed = plan_rewrites(owner, found.spots, found.busy)
    children = tuple(s.child if s is not None and s.form == "module" else "" for s in found.sites)
    island = Island(found.owner, (), tuple(s.kind for s in found.sources), children, (), rewrites)
    check_island(model, island)
    return island, missed


def island_of(model: nn.Module, found: Located, tape: Tape) -> tuple[Island, list[Traced]]:
    """Describe an owner's forward, and trace it: first with free numbers, then with bound ones.

    Raises:
        CaptureError: the forward cannot be traced.
    """
    owner = model.get_submodule(found.owner)
    signature = Signature.of(owner)
    children = tuple(s.child if s is not None and s.form == "module" else "" for s in found.sites)
    failure: CaptureError | None = None
    if isinstance(owner, fx.GraphModule):
        island = Island(found.owner, (), tuple(s.kind for s in found.sources), children, found.inline)
        return island, check_island(model, island)
    for free_numbers in (True, False):
        calls: list[Arguments] = []
        for run in found.runs:
            call = tape.calls[run]
            arguments = Arguments.of(*signature.normalize(call.args, call.kwargs), free_numbers=free_numbers)
            if arguments not in calls:
                calls.append(arguments)
        if len(calls) > _MOST_CALLS:
            continue
        island = Island(found.owner, tuple(calls), tuple(s.kind for s in found.sources), children, found.inline)
        try:
            return island, check_island(model, island)
        except CaptureError as error:
            failure = failure or error
    raise failure or CaptureError(
        f"{type(owner).__name__}.forward is called in more than {_MOST_CALLS} ways",
        why="its numbers change every time",
    )


def scan(model: nn.Module, example_inputs: Any, example_kwargs: Mapping[str, Any] | None = None) -> Sites:
    """List every activation call of a model.

    The model is run once in eval mode and once in train mode; it is not changed.

    Args:
        model: any module.
        example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments.
        example_kwargs: keyword arguments.

    Returns:
        The sites in the order in which they first run; a site that cannot be replaced has `how == "left"` and a reason.

    Raises:
        CaptureError: the model does not run on these inputs.

    >>> import torch, actswap
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    >>> [(s.name, s.source.kind, s.how) for s in actswap.scan(model, torch.randn(8, 4))]
    [('1', 'relu', 'swap')]
    """
    args, kwargs = as_inputs(example_inputs, example_kwargs)
    refuse_uninitialized(model)
    found = Sites(survey(network_in(model), args, kwargs))
    if is_sharded(model):  # FSDP adds to the names of all that is inside; it is to be converted before
        found[:] = [replace(s, name=without_wrappers(s.name), owner=without_wrappers(s.owner)) for s in found]
    return found
