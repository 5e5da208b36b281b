"""Expressions: activations written as text, such as `x*sigmoid(beta*x)`, held as an immutable tree.

The functions are those of the search space of Ramachandran et al. 2017, Searching for Activation Functions, section 2:
a core unit is b(u1(x1), u2(x2)), its inputs are x or the results of other units. `beta` is a trainable number for every
channel. Functions that leave the reals or overflow have a guard, stated beside them:

    sqrt(a)     sqrt(max(a, 0) + 1e-6)      the slope at 0 is finite
    log(a)      log(|a| + 1e-6)             as the paper writes it
    a / b       a / (b + 1e-6), b >= 0; a / (b - 1e-6), b < 0
    exp of min(a, 20); sinh, cosh of a clamped to [-20, 20]
    sinc(a)     sin(a) / a, and 1 at 0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

EPS = 1e-6  # of the guards of sqrt, log and division
STEEPEST = 20.0  # exp(20) = 4.9e8: beyond it a network has diverged anyway, and float16 overflows at exp(11.1)


@dataclass(frozen=True)
class Number:
    """A constant."""

    value: float


@dataclass(frozen=True)
class Variable:
    """`x`, or a trainable number per channel: `beta`, `beta2` to `beta9`."""

    name: str


@dataclass(frozen=True)
class Apply:
    """A function of one or two expressions."""

    function: str
    arguments: tuple[Expression, ...]


Expression = Number | Variable | Apply
X = Variable("x")
BETA = Variable("beta")


@dataclass(frozen=True)
class Function:
    """A function that expressions may apply.

    Attributes:
        arity: number of arguments.
        compute: its value, guard included.
        flops: floating-point operations for one element, an exponential counted as one.
    """

    arity: int
    compute: Callable[..., Tensor]
    flops: int = 1


def _clamped(x: Tensor) -> Tensor:
    return x.clamp(-STEEPEST, STEEPEST)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / torch.where(b >= 0, b + EPS, b - EPS)


FUNCTIONS: Mapping[str, Function] = {
    "neg": Function(1, torch.neg),
    "abs": Function(1, torch.abs),
    "square": Function(1, torch.square),
    "cube": Function(1, lambda a: a * a * a, 2),
    "sqrt": Function(1, lambda a: torch.sqrt(a.clamp_min(0) + EPS), 2),
    "log": Function(1, lambda a: torch.log(a.abs() + EPS), 2),
    "exp": Function(1, lambda a: torch.exp(a.clamp_max(STEEPEST))),
    "sin": Function(1, torch.sin),
    "cos": Function(1, torch.cos),
    "sinh": Function(1, lambda a: torch.sinh(_clamped(a)), 4),
    "cosh": Function(1, lambda a: torch.cosh(_clamped(a)), 4),
    "tanh": Function(1, torch.tanh),
    "asinh": Function(1, torch.asinh, 4),
    "atan": Function(1, torch.atan),
    "sinc": Function(1, lambda a: torch.sinc(a / math.pi), 2),
    "relu": Function(1, torch.relu),
    "sigmoid": Function(1, torch.sigmoid),
    "softplus": Function(1, F.softplus, 2),
    "erf": Function(1, torch.erf),
    "add": Function(2, torch.add),
    "sub": Function(2, torch.sub),
    "mul": Function(2, torch.mul),
    "div": Function(2, _divide, 2),
    "max": Function(2, torch.maximum),
    "min": Function(2, torch.minimum),
}


def parts(expression: Expression) -> Iterator[Expression]:
    """Yield every node of the tree, arguments before the function that takes them.

    >>> [type(part).__name__ for part in parts(Apply("neg", (X,)))]
    ['Variable', 'Apply']
    """
    if isinstance(expression, Apply):
        for argument in expression.arguments:
            yield from parts(argument)
    yield expression


def parameters_of(expression: Expression) -> tuple[str, ...]:
    """Return the names of the trainable numbers, sorted.

    >>> parameters_of(Apply("mul", (BETA, X)))
    ('beta',)
    """
    names = {part.name for part in parts(expression) if isinstance(part, Variable)}
    return tuple(sorted(names - {"x"}))


def evaluate_expression(expression: Expression, values: Mapping[str, Tensor]) -> Tensor:
    """Compute an expression.

    Args:
        expression: the tree.
        values: a tensor for `x` and for every trainable number; they broadcast.

    Returns:
        A tensor of x's shape and type.

    >>> evaluate_expression(Apply("square", (X,)), {"x": torch.tensor([3.0])})
    tensor([9.])
    """
    x = values["x"]
    done: dict[Expression, Tensor] = {}
    for part in parts(expression):  # equal parts are computed once
        if part in done:
            continue
        if isinstance(part, Number):
            done[part] = torch.tensor(part.value, dtype=x.dtype, device=x.device)
        elif isinstance(part, Variable):
            done[part] = values[part.name]
        else:
            done[part] = FUNCTIONS[part.function].compute(*(done[a] for a in part.arguments))
    return done[expression].expand_as(x) if done[expression].shape != x.shape else done[expression]


def flops_of(expression: Expression) -> int:
    """Return the floating-point operations for one element; equal parts count once.

    >>> flops_of(Apply("mul", (X, Apply("sigmoid", (X,)))))
    2
    """
    return sum(FUNCTIONS[part.function].flops for part in set(parts(expression)) if isinstance(part, Apply))
