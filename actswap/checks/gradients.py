"""Gradients: one forward and backward pass in train mode, run alike on every network that is compared.

The random numbers are the same in every pass. The loss is a random sum of all outputs, with a fixed seed. A pass
records the gradients of parameters and inputs. It also records how often each module is called (checkpointing calls it
again) and which dtypes it returns. So a lost `no_grad`, a lost `checkpoint` or a lost autocast region is found.

The weights of torch's own layers are half of the cost of a backward pass, and tell nothing new: the gradient of a
weight is made from the backward signal that also gives the gradient of its bias, and that goes on to the norms before
it. So of a weight beside a bias or norm only this is asked, of the graph: whether it gets a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from actswap.capture.evaluating import evaluating
from actswap.capture.observe import observe, tensors_of
from actswap.capture.private_random import private_random
from actswap.capture.tape import Tape
from actswap.checks.parity import compare
from actswap.errors import CaptureError, first_line
from actswap.inputs import doubled

_LARGEST_KEPT = 1 << 16  # numbers of one gradient that are kept for comparison, evenly spaced
NOT_FINITE = "its gradients are not finite"
_FAINT = 1e-3  # of the median gradient: the error of a smaller gradient is measured relative to this


@dataclass(frozen=True)
class Way:
    """How a pass is run. The way that works for the first network is used for all others.

    Attributes:
        training: run in train mode; False is eval mode.
        twice: make a batch of two from a batch of one, because batch normalisation needs two.
        inputs: compute gradients of the inputs too.
        accumulate: read the gradients from `.grad`, because reentrant checkpointing needs `backward()`. Then they are
            all computed.
    """

    training: bool = True
    twice: bool = False
    inputs: bool = True
    accumulate: bool = False

    def __str__(self) -> str:
        return ("in train mode" if self.training else "in eval mode") + (", on a batch of two" if self.twice else "")


# Tried in this order until one works.
WAYS = (
    Way(),
    Way(inputs=False),
    Way(inputs=False, accumulate=True),
    Way(inputs=False, twice=True),
    Way(training=False, inputs=False),
)


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Attributes:
        way: how it was run.
        outputs: copies of the output tensors.
        reached: by name of the parameter (`input 0` for inputs), whether it gets a gradient.
        gradients: those that were computed, by name; None if there is none. Large gradients are sampled.
        frozen: names of the parameters that require no gradient.
        calls: by module name, the dtypes that each of its calls returned.
        tape: the tape of the forward pass, if one was asked for.
        why: why the first way did not work, "" if it did.
    """

    way: Way
    outputs: tuple[Tensor, ...]
    reached: Mapping[str, bool]
    gradients: Mapping[str, Tensor | None]
    frozen: frozenset[str]
    calls: Mapping[str, tuple[str, ...]]
    tape: Tape | None = None
    why: str = ""


def first_pass(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], watch: bool = False) -> Pass | str:
    """Make a pass in the first way that works; return the reason in words if none does."""
    why = ""
    for way in WAYS:
        found = one_pass(model, args, kwargs, way, watch)
        if isinstance(found, Pass):
            return replace(found, why=why)
        why = why or found
    return why


def one_pass(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], way: Way, watch: bool = False
) -> Pass | str:
    """Make a forward and backward pass; the model is not changed.

    Args:
        model: any module.
        args: positional inputs.
        kwargs: keyword inputs.
        way: how the pass is run.
        watch: record a tape of the forward pass, in train mode only.

    Returns:
        The pass, or the reason in words if the model does not run this way.
    """
    calls: dict[str, list[str]] = {}
    inputs = (args, dict(kwargs))
    if way.twice:
        made = doubled(*inputs)
        if made is None:
            return "the inputs are no batch of one"
        inputs = made
    leaves: list[Tensor] = []
    inputs = pytree.tree_map(lambda v: _own(v, leaves if way.inputs else None), inputs)
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    vouched = frozenset() if way.accumulate else vouched_for(model)
    parameters = {name: p for name, p in learned.items() if name not in vouched}
    ends: set[int] = set()
    wanted = [*parameters.values(), *leaves]
    outputs: list[Tensor] = []
    found: list[Tensor | None] = []

    def backward(tensors: list[Tensor]) -> None:
        loss = _loss(tensors)
        if loss is None:
            raise CaptureError("no output has a gradient", why="no output has a gradient")
        ends.update(_ends(loss))
        of = _accumulated if way.accumulate else _returned
        found.extend(of(loss, wanted))
        outputs.extend(t.detach().clone() for t in tensors)

    tape = None
    try:
        with evaluating(model), private_random(of=model), torch.enable_grad(), _noted(model, calls):
            if watch and way.training:
                tape = observe(model, inputs[0], inputs[1], training=True, then=backward)
            else:
                model.train(way.training)
                backward(list(tensors_of(model(*inputs[0], **inputs[1]))))
    except CaptureError as problem:
        return problem.why
    except Exception as problem:  # the user's code may fail in any way
        return first_line(problem)
    names = [*parameters, *(f"input {i}" for i in range(len(leaves)))]
    kept = {name: None if g is None else _sample(g) for name, g in zip(names, found, strict=True)}
    if any(g is not None and not bool(g.isfinite().all()) for g in kept.values()):
        return NOT_FINITE
    reached = {name: kept[name] is not None if name in kept else id(p) in ends for name, p in learned.items()}
    reached |= {name: g is not None for name, g in kept.items()}
    frozen = frozenset(name for name, p in model.named_parameters() if not p.requires_grad)
    return Pass(way, tuple(outputs), reached, kept, frozen, {k: tuple(v) for k, v in calls.items()}, tape)


def vouched_for(model: nn.Module) -> frozenset[str]:
    """Name the weights of torch's own layers beside which, in the same module, stands a bias or norm.

    The first weight without a bias is not among them, because nothing before it shows its backward signal. Neither is
    what a module of the user's holds itself, nor a weight that a parametrization computes.
    """
    small = {n.rpartition(".")[0] for n, p in model.named_parameters() if p.dim() < 2 and p.requires_grad}
    small |= {n.rpartition(".")[0] for n in small if n}  # a norm stands beside the weight before it
    found: set[str] = set()
    first = True
    for path, module in model.named_modules():
        if path and type(module).__module__ in ("torch.nn.modules.conv", "torch.nn.modules.linear"):
            if path in small or (not first and path.rpartition(".")[0] in small):
                found |= {f"{path}.{n}" for n, p in module.named_parameters(recurse=False) if p.dim() > 1}
            first = False
    return frozenset(found)


def gradient_error(a: Pass, b: Pass) -> tuple[float, str]:
    """Return the largest relative difference of a gradient, and the name of its parameter.

    A gradient that is far smaller than the others (a bias before batch normalisation) is mostly rounding. Its
    difference is taken relative to a thousandth of the median gradient.
    """
    sizes = {name: float(g.square().mean().sqrt()) for name, g in a.gradients.items() if g is not None and g.numel()}
    floor = _FAINT * float(np.median([*sizes.values()])) if sizes else 0.0
    worst, where = 0.0, ""
    for name, size in sizes.items():
        other, mine = b.gradients.get(name), a.gradients[name]
        if other is None or mine is None:
            continue
        delta = float((other - mine).square().mean().sqrt()) if other.shape == mine.shape else float("inf")
        error = delta / max(size, floor) if max(size, floor) > 0 else delta
        if not error <= worst:
            worst, where = error, name
    return worst, where


def output_error(a: Pass, b: Pass) -> float:
    """Return how far the outputs of two passes are apart, relative to how much they vary."""
    return compare(list(a.outputs), list(b.outputs)).rel


def lost_and_gained(a: Pass, b: Pass) -> tuple[list[str], list[str]]:
    """Name the parameters of both networks that have a gradient in `a` alone, and in `b` alone."""
    common = [n for n in a.reached if n in b.reached or n in b.frozen]
    lost = [n for n in common if a.reached[n] and not b.reached.get(n, False)]
    gained = [n for n in common if not a.reached[n] and b.reached.get(n, False)]
    return lost, gained + sorted(a.frozen & b.reached.keys())


def other_calls(a: Pass, b: Pass, but: Callable[[str], bool]) -> tuple[str, ...]:
    """Name the modules that are called another number of times, or return other dtypes.

    Args:
        a: the reference.
        b: the other network.
        but: returns True for the name of a module that is not compared.
    """
    names = [n for n in a.calls if not but(n)]
    return tuple(n for n in names if sorted(a.calls[n]) != sorted(b.calls.get(n, ())))


def types_under_autocast(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Mapping[str, tuple[str, ...]] | str:
    """Run a model once in eval mode under autocast; return the dtypes of each module's calls, or why it failed."""
    calls: dict[str, list[str]] = {}
    device = next((t.device.type for t in (*model.parameters(), *model.buffers())), "cpu")
    try:
        with evaluating(model), _noted(model, calls), torch.autocast(device, torch.bfloat16):
            model(*args, **dict(kwargs))
    except Exception as problem:  # the user's code may not run in this precision
        return first_line(problem)
    return {k: tuple(v) for k, v in calls.items()}


def _own(value: Any, leaves: list[Tensor] | None) -> Any:
    """Copy an input, because a forward may write to it. If `leaves` is given, the copy is made from a new leaf."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return value
    if leaves is None or not value.is_floating_point():
        return value.detach().clone()
    leaves.append(value.detach().clone().requires_grad_())
    with torch.enable_grad():
        return leaves[-1].clone()


def _loss(outputs: Sequence[Tensor]) -> Tensor | None:
    """Return the sum of all outputs with random weights, of the size of one output."""
    generator = torch.Generator().manual_seed(0)
    total: Tensor | None = None
    for t in outputs:
        t = torch.view_as_real(t) if t.is_complex() else t
        if not t.is_floating_point() or t.numel() == 0:
            continue
        weights = torch.randn(t.shape, generator=generator) / t.numel() ** 0.5
        if t.requires_grad:
            part = (t.float() * weights.to(t.device)).sum()
            total = part if total is None else total + part.to(total.device)
    return total


def _ends(loss: Tensor) -> set[int]:
    """Return the ids of the tensors that the graph of a loss ends in: the leaves that get a gradient."""
    found: set[int] = set()
    seen: set[Any] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [below for below, _ in node.next_functions]
    return found


def _returned(loss: Tensor, wanted: Sequence[Tensor]) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, wanted, allow_unused=True))


def _accumulated(loss: Tensor, wanted: Sequence[Tensor]) -> list[Tensor | None]:
    if any(getattr(t, "_post_accumulate_grad_hooks", None) for t in wanted):
        raise RuntimeError("a hook acts on accumulated gradients")
    before = [t.grad for t in wanted]
    try:
        for t in wanted:
            t.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        return [t.grad for t in wanted]
    finally:
        for t, grad in zip(wanted, before, strict=True):
            t.grad = grad


def _sample(g: Tensor) -> Tensor:
    g = (g.to_dense() if g.layout is not torch.strided else g).detach().reshape(-1)
    return g[:: -(-g.numel() // _LARGEST_KEPT) or 1].double().cpu()


@contextmanager
def _noted(model: nn.Module, calls: dict[str, list[str]]) -> Iterator[None]:
    """Record every call of a registered module, and the dtypes that it returns; "" if it does not return.

    A checkpointed module is called again in the backward pass. That call ends early, once nothing more is needed.
    """
    handles = []

    def begin(name: str) -> Callable[..., None]:
        return lambda module, inputs: calls.setdefault(name, []).append("")

    def end(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = () if isinstance(output, Iterator) else tensors_of(output)  # reading an iterator empties it
            at = max(i for i, said in enumerate(calls[name]) if not said)
            calls[name][at] = "+".join(str(t.dtype).removeprefix("torch.") for t in tensors) or "nothing"

        return hook

    for name, module in model.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):
            handles += [module.register_forward_pre_hook(begin(name)), module.register_forward_hook(end(name))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
