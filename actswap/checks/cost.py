"""What a conversion costs: parameters, FLOPs and activations before and after, counted by fvcore.

fvcore counts a trace with one handle per operator, and has none for activation functions. `handles` gives it one for
each activation operator of torch and of actswap. `measure` is more exact: a module of actswap counts what its own file
says (`Spec.flops`), and a plain function counts every operation of its formula, once per call. A multiply-add is one
FLOP, as in fvcore. Sums and products outside of layers and activations are free. A sigmoid is four FLOPs per element.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from actswap.activations import known
from actswap.activations.base import Activation
from actswap.activations.dy_relu import lines_flops
from actswap.activations.hooks import hooked
from actswap.activations.meta_acon import meta_acon_flops
from actswap.activations.opau import opau_flops
from actswap.activations.pau import pau_flops
from actswap.activations.plain import PLAIN, SourceModule
from actswap.activations.smooth_maximum import SMOOTH_FLOPS
from actswap.capture.evaluating import modes_kept, set_modes
from actswap.capture.observe import tensors_of
from actswap.capture.quiet import quiet
from actswap.errors import first_line

Shapes = list[tuple[int, ...]]
Handle = Callable[[list[Any], list[Any]], int]

# Activation functions: operations per element. A sigmoid is a sign, an exponential, a sum and a quotient.
ELEMENTWISE: Mapping[str, int] = {
    "relu": 1, "relu6": 2, "hardtanh": 2, "threshold": 1, "leaky_relu": 2, "prelu": 2, "_prelu_kernel": 2,
    "rrelu": 2, "elu": 4, "celu": 5, "selu": 5, "sigmoid": 4, "log_sigmoid": 5, "tanh": 6, "silu": 5,
    "gelu": 8, "mish": 12, "softplus": 4, "hardswish": 5, "hardsigmoid": 4, "hardshrink": 2, "softshrink": 3,
    "glu": 5,
}  # fmt: skip
# Functions that formulas of activations are made of. They add no activations, since the formula has one result.
PRIMITIVES: Mapping[str, int] = {
    "abs": 1, "exp": 1, "expm1": 2, "log": 1, "log1p": 2, "sqrt": 1, "rsqrt": 2, "square": 1, "pow": 1, "sin": 1,
    "cos": 1, "atan": 1, "asinh": 4, "sinc": 3, "erf": 6, "maximum": 1, "minimum": 1, "clamp": 2, "clamp_min": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Size of a network for one run on given inputs.

    Attributes:
        parameters: distinct trained numbers.
        flops: operations of one run; None if the model cannot be traced.
        activations: numbers that convolutions, matrix products and activation functions return.
        note: why `flops` and `activations` are missing.
    """

    parameters: int
    flops: int | None
    activations: int | None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def measure(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Cost:
    """Count one run of a model.

    Args:
        model: converted or not.
        args: positional inputs.
        kwargs: keyword inputs.

    Returns:
        The cost of one run on these inputs (the whole batch).

    Example:
        >>> measure(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (torch.zeros(2, 3),))
        Cost(parameters=16, flops=32, activations=16, note='')
    """
    parameters = sum(p.numel() for p in model.parameters())
    own = _OwnCounts(model)
    try:
        with modes_kept(model), own.watching(), torch.no_grad():
            set_modes([(module, False) for module in model.modules()])
            counted = _trace(model, args, dict(kwargs or {}), own)
    except Exception as problem:  # torch.jit.trace fails in many ways; the table then says so
        return Cost(parameters, None, None, first_line(problem, 160))
    return Cost(parameters, counted["flops"], counted["activations"])


def handles() -> dict[str, Handle]:
    """Return the FLOP count of each activation operator, for an analysis of your own with fvcore.

    The counts are those of `measure`, except that fvcore sees operators only: the sums and products of a formula that
    is no single operator (softsign, ACON-FReLU, ...) are not in them.

    Returns:
        Handles by operator name, to pass on to `set_op_handle`.

    Example:
        >>> "actswap::acon_c" in handles()
        True

        With it, `FlopCountAnalysis(model, x).set_op_handle(**handles()).total()` counts the activations too.
    """
    found: dict[str, Handle] = {}
    for name, per_element in {**ELEMENTWISE, **PRIMITIVES}.items():
        found[f"aten::{name}"] = found[f"aten::{name}_"] = functools.partial(_per_element, per_element)
    for name, count in _OPERATORS.items():
        found[f"actswap::{name}"] = functools.partial(_of_shapes, count)
    return found


# The operators of actswap: FLOPs by the shapes of their arguments, in the order of their schemas.
_OPERATORS: Mapping[str, Callable[[Shapes], int]] = {
    "swish": lambda s: 6 * prod(s[0]),
    "acon_b": lambda s: SMOOTH_FLOPS * prod(s[0]),
    "acon_c": lambda s: SMOOTH_FLOPS * prod(s[0]),
    "meta_acon": lambda s: meta_acon_flops(s[0], sum(map(prod, s[4:8])), prod(s[7])),
    "dy_relu": lambda s: lines_flops(s[0], sum(map(prod, s[1:5])), prod(s[4]), prod(s[6]) // 2),
    "dy_relu_c": lambda s: lines_flops(s[0], sum(map(prod, s[1:5])), prod(s[4]), prod(s[6]) // 2) + 3 * prod(s[0]),
    "pau": lambda s: pau_flops(s[0], (s[1][-1] - 1, s[2][-1])),
    "opau": lambda s: opau_flops(s[0], (s[1][-1] - 1, s[2][-1])),
}


def _per_element(count: int, inputs: list[Any], outputs: list[Any]) -> int:
    return count * prod(outputs[0].type().sizes() or (0,))


def _of_shapes(count: Callable[[Shapes], int], inputs: list[Any], outputs: list[Any]) -> int:
    shapes = [tuple(value.type().sizes() or ()) if value.isCompleteTensor() else () for value in inputs]
    return count(shapes)


_FREE = {"detach", "alias", "clone", "scalar_tensor", "_to_copy", "lift_fresh", "view"}


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the operations per element of what runs inside; sums, products and comparisons count one each."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_").removesuffix("_forward")
        if name not in _FREE:
            self.count += {**ELEMENTWISE, **PRIMITIVES}.get(name, 1)
        return func(*args, **(kwargs or {}))


@functools.cache
def plain_flops(kind: str) -> int:
    """Return the operations per element of a plain activation, from its operator or else from its formula.

    >>> plain_flops("silu"), plain_flops("softsign")  # softsign: an absolute value, a sum, a quotient
    (5, 3)
    """
    if kind in ELEMENTWISE:
        return ELEMENTWISE[kind]
    plain = PLAIN[kind]
    x, operations = torch.ones(2), _Operations()  # type: ignore[no-untyped-call]
    with operations, torch.no_grad():
        plain.fn(x, **plain.constants)
    return int(operations.count)


class _OwnCounts:
    """Add up the counts that the modules of actswap state for themselves, call by call."""

    def __init__(self, model: nn.Module) -> None:
        self.modules: dict[str, nn.Module] = {}
        self._flops: dict[str, Callable[[nn.Module, tuple[int, ...]], int]] = {}
        for name, module in model.named_modules():
            if isinstance(module, SourceModule):
                self.modules[name] = module
            elif isinstance(module, Activation) and (spec := known(module.name)) is not None and spec.flops:
                self.modules[name], self._flops[module.name] = module, spec.flops
        self.seen: list[tuple[nn.Module, tuple[int, ...]]] = []

    def watching(self) -> AbstractContextManager[None]:
        """Record the calls in the block."""
        return hooked(module.register_forward_hook(self._note) for module in self.modules.values())

    def _note(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.seen.append((module, tuple(int(n) for n in inputs[0].shape)))

    def total(self) -> Counter[str]:
        """Return the sums. Call it after the trace: during a trace every size is a tensor."""
        flops = sum(self._count(module, shape) for module, shape in self.seen)
        return Counter(flops=flops, activations=sum(prod(shape) for _, shape in self.seen))

    def _count(self, module: nn.Module, shape: tuple[int, ...]) -> int:
        if isinstance(module, SourceModule):
            return plain_flops(module.source.kind) * prod(shape)
        assert isinstance(module, Activation)
        return int(self._flops[module.name](module, shape))


class _Called(nn.Module):
    """The model as a function from tensors to tensors, because a trace can hold nothing else."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.args, self.kwargs = model, args, kwargs

    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(v for v in (*self.args, *self.kwargs.values()) if isinstance(v, Tensor))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        args = [next(rest) if isinstance(a, Tensor) else a for a in self.args]
        kwargs = {k: next(rest) if isinstance(v, Tensor) else v for k, v in self.kwargs.items()}
        return tuple(tensors_of(self.model(*args, **kwargs)))


def _trace(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], own: _OwnCounts) -> Counter[str]:
    # fvcore uses torch.jit, which warns of its deprecation on every call, and logs every operator it does not know.
    with quiet("fvcore.nn.jit_analysis"):
        from fvcore.nn.activation_count import _DEFAULT_SUPPORTED_OPS as ACTIVATIONS
        from fvcore.nn.flop_count import _DEFAULT_SUPPORTED_OPS as FLOPS
        from fvcore.nn.jit_analysis import JitModelAnalysis

        called = _Called(model, args, kwargs)
        analysis = JitModelAnalysis(called, called.inputs())
        for name in {**FLOPS, **ACTIVATIONS}:
            analysis.set_op_handle(name, _both(FLOPS.get(name), ACTIVATIONS.get(name)))
        for name, handle in handles().items():
            functions = name.removeprefix("aten::").rstrip("_") in ELEMENTWISE
            analysis.set_op_handle(name, _both(handle, functools.partial(_per_element, 1) if functions else None))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.ancestor_mode("caller")
        by_module = analysis.by_module_and_operator()
    total: Counter[str] = Counter(by_module[""])
    for name in own.modules:  # counted by their own formula instead of by the operators they are made of
        total.subtract(by_module.get(f"model.{name}", Counter()))
    total.update(own.total())
    return total


def _both(flops: Any, activations: Any) -> Callable[[list[Any], list[Any]], Counter[str]]:
    def handle(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        return Counter(flops=_sum(flops, inputs, outputs), activations=_sum(activations, inputs, outputs))

    return handle


def _sum(handle: Any, inputs: list[Any], outputs: list[Any]) -> int:
    if handle is None:
        return 0
    count = handle(inputs, outputs)
    return int(sum(count.values()) if isinstance(count, Counter) else count)
