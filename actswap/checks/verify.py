"""Verify: outputs, and everything that outputs cannot show, of any two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from actswap.activations.plain import SourceModule
from actswap.capture.installed import written_class
from actswap.capture.wrappers import is_sharded, network_in
from actswap.checks.check import Check, Proof
from actswap.checks.parity import Parity, run
from actswap.checks.parity import verify as compare_outputs
from actswap.checks.precision import as_float32, low_precision, own_precision, raised, runs_in_float32
from actswap.checks.proof import (
    Subject,
    absorbed,
    compare_functions,
    forgive,
    look,
    names_of,
    own_noise,
    train_once,
)
from actswap.checks.signal import more_runs, signals_of
from actswap.errors import UsageError
from actswap.inputs import as_inputs
from actswap.plan import Choice
from actswap.record import converted_in, plan_of


def verify(
    a: nn.Module,
    b: nn.Module,
    inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    tolerance: float = 1e-3,
    checks: str = "all",
) -> Parity:
    """Run two models on the same inputs and compare what they compute.

    Beside the outputs in eval mode, the outputs with moved weights are compared, and the gradients, calls and dtypes
    of a pass in train mode. A converted model is compared with its sources in the place of its targets: what the
    conversion did to the rest of the network must be exact, whatever the targets are. Networks in half precision are
    compared in float32, and in their own precision by their own noise (see `actswap.checks.precision`).

    Args:
        a: the reference.
        b: the other model, e.g. the converted one.
        inputs: a tensor, a tuple of arguments, or a dict of keyword arguments.
        kwargs: keyword arguments.
        tolerance: error from which outputs count as different, relative to how much they vary.
        checks: `"all"`, or `"outputs"` for the outputs alone.

    Returns:
        The parity; `first_divergent_site` is looked for only if `rel` exceeds the tolerance, `proof` holds the checks.

    Raises:
        UsageError: a model does not run on the inputs.

    >>> import torch, actswap
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.SiLU()), torch.randn(8, 4)
    >>> parity = actswap.verify(model, actswap.convert(model, "acon_c", x).model, x)
    >>> parity.rel < 1e-5, parity.proof.ok
    (True, True)
    """
    if checks not in ("all", "outputs"):
        raise UsageError(f"checks={checks!r}", fix='checks="all" or checks="outputs"')
    a, b = network_in(a), network_in(b)
    inside = list(converted_in(b).values())
    sharded = is_sharded(a) or is_sharded(b)
    if len(inside) == 1 and not sharded and written_class(inside[0]) is written_class(a) is not written_class(b):
        b = inside[0]  # `b` is a LightningModule that holds it
    args, named = as_inputs(inputs, kwargs)
    low = not sharded and (low_precision(a) or low_precision(b))
    expected = runs_in_float32(a, args, named) if low else None
    if expected is None or runs_in_float32(b, args, named) is None:
        return _verified(a, b, args, named, tolerance, checks, sharded)
    with raised(a), raised(b):
        inputs32, named32 = as_float32(args), as_float32(named)
        parity = _verified(a, b, inputs32, named32, tolerance, checks, sharded)
        runs = more_runs(lambda *call: run(a, *call), inputs32, named32, expected)
    if low_precision(a) is not low_precision(b):
        return parity  # one of them is in float32: there is no common precision beside it
    signals = signals_of([expected, *(outputs for _, outputs in runs)])
    own = own_precision(expected, run(a, args, named), run(b, args, named), signals, tolerance)
    return replace(parity, proof=Proof((*(parity.proof.checks if parity.proof else ()), own)))


def _verified(
    a: nn.Module,
    b: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tolerance: float,
    checks: str,
    sharded: bool,
) -> Parity:
    parity = compare_outputs(a, b, args, kwargs, tolerance)
    if checks == "outputs":
        return parity
    if sharded:
        said = "the weights are sharded: only outputs are compared"
        return replace(parity, proof=Proof((Check("perturbed weights", None, said),)))
    return replace(parity, proof=Proof(_proved(a, b, args, kwargs, tolerance)))


def _proved(
    a: nn.Module, b: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], tolerance: float
) -> tuple[Check, ...]:
    own = {choice.path for choice in _choices(a)}
    choices = [choice for choice in _choices(b) if choice.path not in own]
    places = [(c.site.owner, c.site.child, _values(c)) for c in choices]
    skip = absorbed(a, places) | (names_of(a) - names_of(b))
    results = run(a, args, kwargs)
    runs = more_runs(lambda *call: run(a, *call), args, kwargs, results)
    signals = signals_of([results, *(outputs for _, outputs in runs)])
    subject = Subject(args, kwargs, signals, names_of(a) & names_of(b) - skip, skip)
    seen = look(a, subject, train_once(a, args, kwargs))
    replaced = {c.path for c in choices} | {f"{c.site.owner}.{c.site.child}".strip(".") for c in choices}

    def inside(name: str) -> bool:
        return any(name == path or name.startswith(f"{path}.") for path in replaced)

    limit = None if choices else 10 * tolerance  # of moved weights: the same order of magnitude as of these
    with _sources(b, choices):
        checks = compare_functions(seen, b, subject, inside, limit, strict=bool(choices))
    if any(check.passed is False for check in checks):
        checks = forgive(checks, own_noise(a, seen, subject))
    return checks


def _choices(model: nn.Module) -> Iterator[Choice]:
    for name, network in converted_in(model).items():
        plan = plan_of(network)
        while plan is not None:
            yield from (_under(name, choice) for choice in plan.choices)
            plan = plan.before


def _under(name: str, choice: Choice) -> Choice:
    """Return a choice of a network that stands inside another model, with its names there."""
    if not name:
        return choice
    owner = f"{name}.{choice.site.owner}".rstrip(".")
    return replace(choice, path=f"{name}.{choice.path}", site=replace(choice.site, owner=owner))


@contextmanager
def _sources(model: nn.Module, choices: list[Choice]) -> Iterator[None]:
    """Put the sources in the place of the targets."""
    standing: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for choice in choices:
            parent, _, name = choice.path.rpartition(".")
            around = network_in(model.get_submodule(parent))
            standing.append((around, name, around.get_submodule(name)))
            source = SourceModule(choice.site.source, choice.site.channel_dim).train(around.training)
            tensor = next((t for t in standing[-1][2].parameters() if t.is_floating_point()), None)
            around._modules[name] = source if tensor is None else source.to(tensor)
        yield
    finally:
        for around, name, module in standing:
            around._modules[name] = module


def _values(choice: Choice) -> tuple[tuple[float, ...], ...]:
    return tuple(v if isinstance(v, tuple) else (v,) for _, v in choice.site.source.params)
