"""Any expression as a trainable activation: `actswap.convert(model, "x*sigmoid(beta*x)", x)`.

The trainable numbers are per channel, as in the search of Ramachandran et al. 2017, section 2, and begin at 1.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor, nn

from actswap import ops
from actswap.activations.base import Activation, Spec, StartContext, elements, per_channel, widened, with_sharing
from actswap.activations.expression import evaluate_expression, flops_of, parameters_of
from actswap.activations.grammar import parse, text_of
from actswap.activations.plain import evaluate
from actswap.errors import StartError
from actswap.fit.points import Array
from actswap.sites import Number, Source, Start

_ROUNDING = 1e-12  # two forms of one function differ by less in float64 on [-10, 10]
_LARGEST = 1e3  # a larger number means that the source is reached in the limit only
_FIRST = (1.0, 0.5)  # starts of least squares; at 1 some expressions, such as max(x, beta*x), have a kink
_EPS = 1e-15  # tolerance of least squares: an exact solution is found to rounding


def expression_formula(x: Tensor, numbers: Tensor, text: str, dim: int) -> Tensor:
    """Compute an expression with a number per channel for every `beta` in it.

    Args:
        x: input of any shape.
        numbers: (P, C) or (P, 1), a row for each trained number, sorted by name.
        text: the expression.
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.
    """
    tree, t = _parsed(text), widened(x)
    rows = zip(parameters_of(tree), numbers, strict=True)
    return evaluate_expression(tree, {"x": t, **{n: per_channel(p, t, dim).to(t.dtype) for n, p in rows}}).to(x.dtype)


# Only the exporter sees the operator, as one node: torch.compile fuses the formula itself.
expression = ops.define("expression(Tensor x, Tensor numbers, str text, int dim) -> Tensor", expression_formula)
_parsed = lru_cache(maxsize=4096)(parse)


class ExpressionUnit(Activation):
    """An expression of x with a trainable number per channel for every `beta` in it.

    Args:
        channels: width of the channel axis; None for one set of numbers per layer.
        channel_dim: index of the channel axis.
        expression: e.g. `x*sigmoid(beta*x)`; see `actswap.activations.grammar`.
        beta: the value at first of every trainable number.

    Raises:
        UsageError: the text is no expression.

    >>> unit = ExpressionUnit(3, expression="x*sigmoid(beta*x)")
    >>> torch.allclose(unit(torch.ones(2, 3)), nn.functional.silu(torch.ones(2, 3)))
    True
    """

    def __init__(
        self,
        channels: int | None = None,
        channel_dim: int = 1,
        expression: str = "x*sigmoid(beta*x)",
        beta: float = 1.0,
    ) -> None:
        super().__init__(channels, channel_dim)
        self.tree = parse(expression)
        self.name = text_of(self.tree)  # type: ignore[misc]  # the class has none of its own
        for parameter in parameters_of(self.tree):
            self.register_parameter(parameter, nn.Parameter(torch.full((self.width,), float(beta))))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the expression; the arithmetic is float32 for the half types."""
        if torch.compiler.is_exporting():
            numbers: list[Tensor] = [self.get_parameter(name) for name in parameters_of(self.tree)]
            rows = torch.stack(numbers) if numbers else x.new_zeros((0, 1))
            return expression(x, rows, self.name, self.channel_dim)
        t = widened(x)
        betas = {n: per_channel(p, t, self.channel_dim).to(t.dtype) for n, p in self.named_parameters()}
        return evaluate_expression(self.tree, {"x": t, **betas}).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the expression."""
        return f"{self.name}, {super().extra_repr()}"


@lru_cache(maxsize=4096)
def expression_spec(text: str) -> Spec:
    """Return the Spec of an expression.

    Raises:
        UsageError: the text is no expression.

    >>> expression_spec("max(x, sigmoid(beta * x))").name
    'max(x, sigmoid(beta*x))'
    """
    tree = parse(text)
    name = text_of(tree)

    def build(channels: int | None, channel_dim: int = 1, **options: Any) -> nn.Module:
        return ExpressionUnit(channels, channel_dim, name, **options)

    def promise(source: Source) -> str:
        return "none" if _exact_start(name, source) is None else "exact"

    def start(source: Source, context: StartContext) -> Start:
        values = _exact_start(name, source)
        if values is None:
            raise StartError(
                f"{name} has no start for {source}",
                why="no values of its trainable numbers make it that function",
                fix='start="morph", or start="none" to train from there',
            )
        return Start("exact", params=dict(values), bound=0.0)

    return Spec(
        name=name,
        title="an expression of the Swish paper's search space",
        paper="Ramachandran et al. 2017, Searching for Activation Functions, section 2",
        build=with_sharing(build, True),
        promise=promise,
        start=start,
        options={"beta": 1.0, "per_channel": True},
        no_decay=parameters_of(tree),
        flops=lambda module, shape: flops_of(tree) * elements(shape),
    )


@lru_cache(maxsize=4096)
def _exact_start(name: str, source: Source) -> tuple[tuple[str, Number], ...] | None:
    """Return the numbers at which an expression is the source function, None if there are none."""
    lengths = {len(value) for _, value in source.params if isinstance(value, tuple)}
    if lengths:
        return _exact_by_channel(name, source, max(lengths))
    tree = parse(name)
    names = parameters_of(tree)
    # From near 0 on: a steep sigmoid is a step everywhere else. It is no ReLU there.
    positive = torch.logspace(-6, 1, 64, dtype=torch.float64)
    x = torch.cat([-positive, positive])
    wanted = evaluate(source, x[None])[0]

    def error(betas: Array) -> Array:
        tensors = {n: torch.tensor(b, dtype=torch.float64) for n, b in zip(names, betas, strict=True)}
        return np.asarray(evaluate_expression(tree, {"x": x, **tensors}) - wanted)

    closest = _ROUNDING * max(1.0, float(wanted.abs().max()))
    for first in _FIRST:
        betas = np.full(len(names), first)
        if names and np.isfinite(error(betas)).all():
            betas = least_squares(error, betas, method="lm", xtol=_EPS, ftol=_EPS, gtol=_EPS).x
        if np.abs(error(betas)).max() <= closest and (np.abs(betas) <= _LARGEST).all():
            return tuple((n, float(b)) for n, b in zip(names, betas, strict=True))
    return None


def _exact_by_channel(name: str, source: Source, channels: int) -> tuple[tuple[str, Number], ...] | None:
    """Return the numbers of each channel of a source whose constants differ by channel."""
    found: list[dict[str, Number]] = []
    for k in range(channels):
        params = tuple((n, v[k % len(v)] if isinstance(v, tuple) else v) for n, v in source.params)
        one = _exact_start(name, replace(source, params=params))
        if one is None:
            return None
        found.append(dict(one))
    return tuple((n, tuple(float(numbers[n]) for numbers in found)) for n in parameters_of(parse(name)))  # type: ignore[arg-type]
