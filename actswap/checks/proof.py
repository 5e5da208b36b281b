"""The proof: compare two networks in what their outputs in eval mode do not show.

- `look` runs the original.
- `compare_functions` compares it with a network that must be the same function: the isolated one, in which every
  activation is a module that still computes the source.
- `compare_start` compares it with the converted network, whose targets may differ from the sources as far as their
  starts allow.

The cost: three forward and backward passes (original, isolated, converted) and two forward passes with moved weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actswap.checks.check import Check, few_names
from actswap.checks.gradients import (
    Pass,
    first_pass,
    gradient_error,
    lost_and_gained,
    one_pass,
    other_calls,
    output_error,
    types_under_autocast,
)
from actswap.checks.parity import compare
from actswap.checks.perturbed import moved, perturbed_run
from actswap.checks.signal import Signal
from actswap.errors import first_line

NOISE_FACTOR = 8  # a deviation below 8x the network's own rounding noise is no fault
_REASSOCIATED = 250  # times a few roundings: what another order of the same operations may change in a deep network
_MOST = 0.05  # of the signal: a larger error is no rounding, in any precision
_META = "on the meta device there are no values"
_LARGEST = 1 << 31  # parameters; the gradients of a larger network may not fit into memory

PERTURBED, GRADIENTS, CALLS, AUTOCAST, START = (
    "perturbed weights",
    "gradients",
    "module calls",
    "autocast",
    "gradients at the start",
)


@dataclass(frozen=True)
class Subject:
    """What networks are compared on.

    Attributes:
        args: positional inputs.
        kwargs: keyword inputs.
        signals: how the outputs of the original vary on them.
        names: the parameters and buffers that are moved.
        skip: the parameters and buffers that become part of targets; they are not moved.
        traced: modules whose forward is traced. Their float attributes are moved too, and the network also runs under
            autocast.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    signals: Sequence[Signal]
    names: frozenset[str] = frozenset()
    skip: frozenset[str] = frozenset()
    traced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """The runs of the original; a text in the place of a run says why it failed.

    Attributes:
        trained: its forward and backward pass.
        perturbed: its outputs with moved weights.
        types: the dtypes its modules return under autocast, None if nothing is traced.
    """

    trained: Pass | str
    perturbed: list[Tensor] | str
    types: Mapping[str, tuple[str, ...]] | str | None = None


def train_once(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], watch: bool = False) -> Pass | str:
    """Run the forward and backward pass of the original, or return the reason in words if that fails."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(t.is_meta for t in tensors):
        return _META
    if sum(t.numel() for t in tensors) > _LARGEST:
        return f"more than {_LARGEST:,} parameters: their gradients may not fit into memory"
    if not any(p.requires_grad for p in model.parameters()):
        return _frozen(model, args, kwargs, watch)
    return first_pass(model, args, kwargs, watch)


def _frozen(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], watch: bool) -> Pass | str:
    found = first_pass(model, args, kwargs, watch)
    return found if isinstance(found, Pass) else f"no parameter has a gradient, and {found}"


def look(model: nn.Module, subject: Subject, trained: Pass | str) -> Seen:
    """Run the original with moved weights, and under autocast if anything is traced."""
    types = types_under_autocast(model, subject.args, subject.kwargs) if subject.traced else None
    return Seen(trained, _perturbed(model, subject), types)


def compare_functions(
    seen: Seen,
    model: nn.Module,
    subject: Subject,
    inside: Callable[[str], bool],
    limit: float | None = None,
    strict: bool = True,
) -> tuple[Check, ...]:
    """Compare the original with a network that must be the same function, to rounding unless a limit is given.

    Args:
        seen: the runs of the original.
        model: the other network; it is not changed.
        subject: what both are run on.
        inside: returns True for the name of a module that is replaced, or lies in one that is.
        limit: the largest error of the outputs with moved weights. If given, the sizes of gradients are only reported.
        strict: fail if the other network does not run in a mode in which the original does.

    Returns:
        The checks.
    """
    checks = [_compare_perturbed(seen.perturbed, _perturbed(model, subject), subject.signals, limit)]
    if isinstance(seen.trained, str):
        checks.append(Check(GRADIENTS, None, f"not proved: {seen.trained}"))
    else:
        after = one_pass(model, subject.args, subject.kwargs, seen.trained.way)
        if isinstance(after, str):
            failed = f"it no longer runs {seen.trained.way}: {after}"
            checks.append(Check(GRADIENTS, False if strict else None, failed))
        else:
            checks.append(_compare_gradients(seen.trained, after, subject, GRADIENTS, exact=limit is None))
            called = after.calls
            checks.append(_compare_calls(seen.trained, after, inside if strict else lambda name: name not in called))
    if seen.types is not None:
        checks.append(_compare_types(seen.types, model, subject, inside))
    return tuple(checks)


def compare_start(seen: Seen, after: Pass | str, subject: Subject, exact: bool) -> Check:
    """Compare the gradients of the converted network with those of the original.

    Exact starts have the same gradients to rounding. A smoothed kink has another gradient than the kink, however little
    the outputs differ. That difference is reported; it fails no check.

    Args:
        seen: the runs of the original.
        after: the same pass of the converted network.
        subject: what both were run on.
        exact: whether every start is exact.

    Returns:
        The check.
    """
    if isinstance(seen.trained, str):
        return Check(START, None, f"not proved: {seen.trained}")
    if isinstance(after, str):
        return Check(START, False, f"it no longer runs {seen.trained.way}: {after}")
    return _compare_gradients(seen.trained, after, subject, START, exact)


def own_noise(model: nn.Module, seen: Seen, subject: Subject) -> Mapping[str, float]:
    """Return by how much each error changes when every weight of the original is moved by one rounding.

    A network that amplifies rounding, or is not deterministic, differs from itself by that much.
    """
    noise: dict[str, float] = {}
    with moved(model, subject.names, amount=_eps(subject)):
        if not isinstance(seen.perturbed, str):
            again = _perturbed(model, subject)
            noise[PERTURBED] = 1.0 if isinstance(again, str) else compare(seen.perturbed, again, subject.signals).rel
    if not isinstance(seen.trained, str):
        noise[GRADIENTS] = gradient_noise(model, seen.trained, subject)
    return noise


def gradient_noise(model: nn.Module, own: Pass, subject: Subject) -> float:
    """Return by how much a pass of a network differs from itself when every weight is moved by one rounding."""
    with moved(model, subject.names, amount=_eps(subject)):
        other = one_pass(model, subject.args, subject.kwargs, own.way)
    return max(gradient_error(own, other)[0], output_error(own, other)) if isinstance(other, Pass) else 0.0


def _eps(subject: Subject) -> float:
    return max((s.eps for s in subject.signals), default=0.0) or torch.finfo(torch.float32).eps


def forgive(checks: Sequence[Check], noise: Mapping[str, float]) -> tuple[Check, ...]:
    """Turn failed checks into passed ones if their error is within the network's own noise."""
    made = []
    for check in checks:
        own = noise.get(check.name, 0.0) * NOISE_FACTOR
        if check.passed is False and check.error is not None and not check.names and check.error <= own:
            said = f"{check.said}; the network differs from itself by {own / NOISE_FACTOR:.2g} after one rounding"
            proved = own <= _MOST
            check = Check(
                check.name, True if proved else None, said if proved else f"not proved: {said}", check.error, own
            )
        made.append(check)
    return tuple(made)


def rounding_limit(signals: Sequence[Signal]) -> float:
    """Return the output error that another order of the same operations may cause."""
    return min(_REASSOCIATED * max((s.largest_rounding for s in signals), default=0.0), _MOST)


def names_of(model: nn.Module) -> frozenset[str]:
    """Return the names of all parameters and buffers; a shared tensor is named once."""
    return frozenset((*dict(model.named_parameters()), *dict(model.named_buffers())))


def absorbed(model: nn.Module, places: Collection[tuple[str, str, tuple[tuple[float, ...], ...]]]) -> frozenset[str]:
    """Name the parameters and buffers that become part of targets: those of replaced modules, and trained slopes.

    Args:
        model: the original.
        places: (owner, child, parameters of the source) of every site that is replaced.
    """
    found: set[str] = set()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for owner, child, values in places:
        below = f"{owner}." if owner else ""
        for name, t in tensors.items():
            own = child and name.startswith(f"{below}{child}.")
            if own or (name.startswith(below) and t.is_floating_point() and _is_one_of(t, values)):
                found.add(name)
    return frozenset(found)


def _is_one_of(t: Tensor, values: Sequence[tuple[float, ...]]) -> bool:
    return any(t.numel() == len(v) and not t.is_meta and t.flatten().tolist() == list(v) for v in values)


def _perturbed(model: nn.Module, subject: Subject) -> list[Tensor] | str:
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        return _META
    try:
        return perturbed_run(model, subject.args, subject.kwargs, subject.names, subject.traced)
    except Exception as problem:  # the user's code may refuse other weights
        return f"with moved weights it does not run: {first_line(problem)}"


def _compare_perturbed(
    before: list[Tensor] | str, after: list[Tensor] | str, signals: Sequence[Signal], limit: float | None
) -> Check:
    if isinstance(before, str):
        return Check(PERTURBED, None, f"not proved: {before}")
    if any(not t.isfinite().all() for t in before if t.is_floating_point()) or any(t.is_meta for t in before):
        return Check(PERTURBED, None, "not proved: with moved weights its outputs are not finite")
    if isinstance(after, str):
        return Check(PERTURBED, False, f"unlike the original, {after}")
    exact = limit is None
    error, limit = compare(before, after, signals).rel, max(limit or 0.0, rounding_limit(signals))
    if error <= limit:
        return Check(PERTURBED, True, "outputs agree after all weights were moved", error, limit)
    said = f"outputs differ by {error:.2g} after all weights were moved"
    return Check(PERTURBED, False, said + (": a weight became a constant" if exact else ""), error, limit)


def _compare_gradients(before: Pass, after: Pass, subject: Subject, name: str, exact: bool) -> Check:
    lost, gained = lost_and_gained(before, after)
    lost = [n for n in lost if n not in subject.skip]
    if lost or gained:
        told = [f"{few_names(n)} {what} a gradient" for n, what in ((lost, "lost"), (gained, "gained")) if n]
        return Check(name, False, f"{before.way}, {', '.join(told)}", names=(*lost, *gained))
    known = {*before.frozen, *before.reached}
    changed = sorted(before.frozen ^ (after.frozen & known))
    changed = [n for n in changed if n not in subject.skip]
    if changed:
        return Check(name, False, f"requires_grad of {few_names(changed)} changed", names=tuple(changed))
    error, where = gradient_error(before, after)
    error = max(error, output_error(before, after) if exact else 0.0)
    compared = len(before.gradients.keys() & after.gradients.keys())
    more = len(before.reached.keys() & after.reached.keys()) - compared
    said = f"{before.way}, gradients of {compared} tensors" + (
        f" (and that of {more} weights beside them)" if more else ""
    )
    if not before.way.training:
        said = f"not proved in train mode ({before.why}); {said}"
    if not exact:
        return Check(name, True, f"{said} are all there; they differ by {error:.2g} at most ({where})", error)
    eps = max((torch.finfo(t.dtype).eps for t in before.outputs if t.is_floating_point()), default=0.0)
    limit = max(min(4 * _REASSOCIATED * eps, _MOST), rounding_limit(subject.signals))
    if error <= limit:
        return Check(name, True, f"{said} agree", error, limit)
    return Check(name, False, f"{said} differ by {error:.2g}" + (f", first of {where}" if where else ""), error, limit)


def _compare_calls(before: Pass, after: Pass, inside: Callable[[str], bool]) -> Check:
    other = other_calls(before, after, inside)
    if other:
        name = other[0]
        said = f"{few_names(other)}: called {len(before.calls[name])} times and returns {before.calls[name][0]}, "
        now = after.calls.get(name, ())
        return Check(CALLS, False, said + f"now {len(now)} times" + (f" and {now[0]}" if now else ""), names=other)
    return Check(CALLS, True, f"{len(before.calls)} modules are called as often and return the same dtypes")


def _compare_types(
    before: Mapping[str, tuple[str, ...]] | str, model: nn.Module, subject: Subject, inside: Callable[[str], bool]
) -> Check:
    if isinstance(before, str):
        return Check(AUTOCAST, None, f"not proved: it does not run under autocast: {before}")
    after = types_under_autocast(model, subject.args, subject.kwargs)
    if isinstance(after, str):
        return Check(AUTOCAST, False, f"under autocast it no longer runs: {after}")
    other = tuple(n for n in before if not inside(n) and sorted(before[n]) != sorted(after.get(n, ())))
    if other:
        return Check(AUTOCAST, False, f"under autocast {few_names(other)} returns another dtype", names=other)
    return Check(AUTOCAST, True, "under autocast every module returns the same dtypes")
