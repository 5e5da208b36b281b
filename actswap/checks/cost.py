"""What a conversion costs: parameters, FLOPs and activations before and after, counted by fvcore.

fvcore counts what stands in a trace by one handle per operator, and knows none for activation functions: a
trained activation would cost nothing. Here every activation function has a handle, and every module of
actswap counts what its own file says (`Spec.flops`), whatever operators its forward happens to be made of. A
multiply-add is one FLOP, as fvcore counts; an activation function counts its operations per element (a
sigmoid is four).
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from actswap.activations import known
from actswap.activations.base import Activation
from actswap.capture.observe import tensors_of

# Operations per element. A sigmoid is a sign, an exponential, a sum and a quotient.
ELEMENTWISE: Mapping[str, int] = {
    "relu": 1, "relu6": 2, "hardtanh": 2, "threshold": 1, "leaky_relu": 2, "prelu": 2, "_prelu_kernel": 2,
    "rrelu": 2, "elu": 4, "celu": 5, "selu": 5, "sigmoid": 4, "log_sigmoid": 5, "tanh": 6, "silu": 5,
    "gelu": 8, "mish": 12, "softplus": 4, "hardswish": 5, "hardsigmoid": 4, "hardshrink": 2, "softshrink": 3,
    "glu": 5,
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Size of a network for one run on given inputs.

    Attributes:
        parameters: distinct trained numbers.
        flops: operations of one run, None where the model cannot be traced.
        activations: numbers that convolutions, products and activation functions put out.
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
    """
    parameters = sum(p.numel() for p in model.parameters())
    training = {module: module.training for module in model.modules()}
    own = _OwnCounts(model)
    try:
        for module in training:
            module.training = False
        with own, torch.no_grad():
            counted = _trace(model, args, dict(kwargs or {}), own)
    except Exception as problem:  # torch.jit.trace fails in many ways; the table then says so
        return Cost(parameters, None, None, f"{type(problem).__name__}: {str(problem).strip().splitlines()[0][:160]}")
    finally:
        for module, was in training.items():
            module.training = was
    return Cost(parameters, counted["flops"], counted["activations"])


class _OwnCounts:
    """Adds up what the modules of actswap say of themselves, call by call."""

    def __init__(self, model: nn.Module) -> None:
        named = [(n, m, known(m.name)) for n, m in model.named_modules() if isinstance(m, Activation)]
        self.modules = {name: (module, spec) for name, module, spec in named if spec is not None and spec.flops}
        self.seen: list[tuple[nn.Module, Any, tuple[int, ...]]] = []
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for module, spec in self.modules.values():
            self._handles.append(module.register_forward_hook(self._hook(spec)))

    def __exit__(self, *problem: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, spec: Any) -> Callable[..., None]:
        def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            self.seen.append((module, spec, tuple(int(n) for n in inputs[0].shape)))

        return add

    def total(self) -> Counter[str]:
        """Add up; after the trace, in which every size is a tensor."""
        flops = sum(int(spec.flops(module, shape)) for module, spec, shape in self.seen)
        return Counter(flops=flops, activations=sum(prod(shape) for _, _, shape in self.seen))


class _Called(nn.Module):
    """The model as a function of tensors to tensors, which is all that the trace can hold."""

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
    with warnings.catch_warnings():  # fvcore uses torch.jit, which announces its end on every call
        warnings.simplefilter("ignore")
        from fvcore.nn.activation_count import _DEFAULT_SUPPORTED_OPS as ACTIVATIONS
        from fvcore.nn.flop_count import _DEFAULT_SUPPORTED_OPS as FLOPS
        from fvcore.nn.jit_analysis import JitModelAnalysis

        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        called = _Called(model, args, kwargs)
        analysis = JitModelAnalysis(called, called.inputs())
        for name in {**FLOPS, **ACTIVATIONS}:
            analysis.set_op_handle(name, _both(FLOPS.get(name), ACTIVATIONS.get(name)))
        for name, per_element in ELEMENTWISE.items():
            for spelling in (name, f"{name}_"):
                analysis.set_op_handle(f"aten::{spelling}", _elementwise(per_element))
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


def _elementwise(per_element: int) -> Callable[[list[Any], list[Any]], Counter[str]]:
    def handle(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        elements = prod(outputs[0].type().sizes() or (0,))
        return Counter(flops=per_element * elements, activations=elements)

    return handle
