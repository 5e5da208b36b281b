"""Find activations in a list of operations, whether from a tape or from an fx graph.

A match is a single operation (`relu`, `gelu`, ...) or a whole formula (`x * sigmoid(x)`); the larger one wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from actswap.capture.canonical import is_number
from actswap.capture.tape import Op, Ref, Value
from actswap.recognize import algebra, formulas
from actswap.recognize.algebra import Expr
from actswap.sites import Source

_DEPTH = 12
_SMOOTH = ("sigmoid", "tanh", "erf", "exp", "abs", "hardsigmoid", "erfc", "ndtr", "logsigmoid")
_PASS = frozenset(("contiguous", "clone", "identity", "to", "float", "type_as", "type", "half", "bfloat16", "alias"))
_ROOTS = frozenset(
    ("mul", "div", "add", "sub", "pow", "square", "maximum", "minimum", "where", "log", "log1p", "reciprocal")
    + ("logaddexp", "clamp", "hardtanh", "neg", "masked_fill")
)
_CUTS = frozenset(("clamp", "hardtanh", "maximum", "minimum"))


_ASKS = frozenset(("size", "dim", "getattr", "shape", "ndim", "numel"))  # they read no value


@dataclass(frozen=True)
class Match:
    """An activation: what it is, the value it reads, the operation that returns its result, and all it is made of."""

    source: Source
    x: int
    root: Op
    ops: tuple[Op, ...]

    @property
    def is_formula(self) -> bool:
        """True where it is spelled out in more than one operation."""
        return len(self.ops) > 1


def find(ops: Sequence[Op], values: Mapping[int, Value], returned: Sequence[int] = ()) -> list[Match]:
    """Return all activations among `ops`, in the order of their results.

    A part of a formula that something else reads too is looked at on its own: in `s = sigmoid(x); x * s + s` there is
    a SiLU, and a sigmoid.

    Args:
        ops: operations in order.
        values: the values they read and make.
        returned: the values that are results of it all.
    """
    producers = {out: op for op in ops for out in op.outs}
    readers: dict[int, set[int]] = {out: {-1} for out in returned}
    for op in ops:
        if op.name not in _ASKS:
            for ref in op.refs():
                readers.setdefault(ref, set()).add(op.index)
    consumed: set[int] = set()
    found: list[Match] = []
    for op in reversed(ops):
        if op.index in consumed:
            continue
        match = _formula(op, producers, values) if op.name in _ROOTS else _single(op, values)
        if match is not None:
            found.append(match)
            inside = {o.index for o in match.ops}
            parts = (o for o in match.ops if all(readers.get(out, set()) <= inside for out in o.outs))
            consumed |= {op.index, *(o.index for o in parts)}
    return found[::-1]


def _single(op: Op, values: Mapping[int, Value]) -> Match | None:
    x = op.args.get("input")
    if not isinstance(x, Ref) or not op.outs or not values[x.id].floating:
        return None
    source = _source(op, values)
    return None if source is None else Match(source, x.id, op, (op,))


def _source(op: Op, values: Mapping[int, Value]) -> Source | None:
    name, arg = op.name, op.args.get
    if name.startswith("actswap."):
        return Source(name)
    if name in ("relu", "selu", "silu", "mish", "hardswish", "hardsigmoid", "tanh", "sigmoid"):
        return Source(name)
    if name in ("softsign", "logsigmoid", "tanhshrink"):
        return Source(name)
    if name == "gelu":
        return Source("gelu_tanh" if arg("approximate") == "tanh" else "gelu")
    if name == "leaky_relu":
        return Source.of("leaky_relu", slope=_float(arg("negative_slope"), 0.01))
    if name == "rrelu":
        return Source.of("leaky_relu", slope=(_float(arg("lower"), 0.125) + _float(arg("upper"), 1 / 3)) / 2)
    if name in ("elu", "celu"):
        return Source.of(name, alpha=_float(arg("alpha"), 1.0))
    if name == "softplus":
        return Source.of(name, beta=_float(arg("beta"), 1.0), threshold=_float(arg("threshold"), 20.0))
    if name in ("hardshrink", "softshrink"):
        return Source.of(name, lambd=_float(arg("lambd"), 0.5))
    if name == "threshold":
        limit, value = _float(arg("threshold"), 0.0), _float(arg("value"), 0.0)
        return Source("relu") if limit == value == 0 else Source.of(name, threshold=limit, value=value)
    if name == "prelu":
        slope = _constant(arg("weight"), values)
        if slope is None or slope.is_meta:
            return None if slope is None else Source(name)
        return Source.of(name, slope=_numbers(slope))
    if name == "glu":
        return Source("glu")
    return None


def _float(value: Any, default: float) -> float:
    return float(value) if is_number(value) else default


def _constant(value: Any, values: Mapping[int, Value]) -> Tensor | None:
    return values[value.id].constant if isinstance(value, Ref) else None


def _numbers(tensor: Tensor) -> float | tuple[float, ...]:
    flat = tensor.detach().double().flatten().tolist()
    return flat[0] if len(flat) == 1 else tuple(flat)


def _formula(op: Op, producers: Mapping[int, Op], values: Mapping[int, Value]) -> Match | None:
    left, right = op.args.get("input"), op.args.get("other")
    times_one = (op.name == "mul" and left == 1) or (op.name in ("mul", "div") and right == 1)
    if times_one:
        return None  # the formula ends before it
    x = op.args.get("input")
    if op.name in ("clamp", "hardtanh") and isinstance(x, Ref) and op.outs and values[x.id].floating:
        bounds = _bounds(op, values)
        if bounds is not None and not _has_parts(x.id, producers):
            return _bounded(bounds, x.id, op, (op,))
    candidates = _cone(op, producers, values)
    cut = None
    for x in candidates:
        reader = _Reader(x, producers, values)
        expression = reader.op(op, 0)
        hit = formulas.match(expression) if expression is not None else None
        if hit is not None:
            kind, constants = hit
            if reader.tensor is not None:
                constants = {"beta": _numbers(reader.tensor)}  # type: ignore[dict-item]
            source = Source.of(kind, **constants)
            if source == Source.of("swish", beta=1.0):
                source = Source("silu")
            ops = tuple(sorted(reader.ops.values(), key=lambda o: o.index))
            return Match(source, x, op, ops)
        if cut is None and op.name in _CUTS and expression is not None:
            bounds = algebra.bounds(expression)
            ops = tuple(sorted(reader.ops.values(), key=lambda o: o.index))
            cut = None if bounds is None else _bounded(bounds, x, op, ops)
    return cut


def _bounded(bounds: tuple[float, float], x: int, root: Op, ops: tuple[Op, ...]) -> Match | None:
    low, high = bounds
    if bounds == (0.0, 6.0):
        return Match(Source("relu6"), x, root, ops)
    if any(op.name == "relu" for op in ops):
        return None  # a guard against large numbers: the ReLU is the activation, and the guard stays
    if bounds == (0.0, float("inf")):
        return Match(Source("relu"), x, root, ops)
    if float("-inf") < low < high < float("inf"):
        return Match(Source.of("hardtanh", low=low, high=high), x, root, ops)
    return None


def _bounds(op: Op, values: Mapping[int, Value]) -> tuple[float, float] | None:
    """The bounds of a clamp: numbers, or tensors of one constant; None where they vary or differ by element."""
    names = ("min_val", "max_val") if op.name == "hardtanh" else ("min", "max")
    found = (-1.0, 1.0) if op.name == "hardtanh" else (float("-inf"), float("inf"))
    for i, name in enumerate(names):
        given = op.args.get(name)
        constant = _constant(given, values)
        if constant is not None and constant.numel() == 1 and not constant.is_meta:
            given = float(constant)
        if isinstance(given, Ref):
            return None
        found = (_float(given, found[0]), found[1]) if i == 0 else (found[0], _float(given, found[1]))
    return found


def _has_parts(x: int, producers: Mapping[int, Op]) -> bool:
    """True where a clamp may be the outer part of a longer formula: clamp(x/6 + 0.5, 0, 1), x.clamp(0).clamp(max=6)."""
    made = producers.get(x)
    scaled = made is not None and made.name in ("add", "mul", "div") and any(is_number(a) for a in made.args.values())
    return scaled or (made is not None and made.name in _CUTS)


def _cone(op: Op, producers: Mapping[int, Op], values: Mapping[int, Value]) -> list[int]:
    """Values that the formula ending in `op` may be a function of, nearest first."""
    seen: dict[int, None] = {}
    layer = [op]
    for _ in range(_DEPTH):
        refs = [r for o in layer for r in o.refs() if values[r].constant is None and r not in seen]
        seen.update(dict.fromkeys(refs))
        layer = [producers[r] for r in refs if r in producers and _readable(producers[r])]
        if not layer or len(seen) > 40:
            break
    return [v for v in seen if values[v].floating]


def _readable(op: Op) -> bool:
    return op.name in _ROOTS or op.name in _SMOOTH or op.name in _PASS or op.name in _OTHERS


_OTHERS = frozenset(("neg", "relu", "softplus", "sqrt", "expm1", "gt", "ge", "lt", "le", "zeros_like"))


class _Reader:
    """Read an operation as an expression in the value `x`, remembering what it is made of."""

    def __init__(self, x: int, producers: Mapping[int, Op], values: Mapping[int, Value]) -> None:
        self.x, self.producers, self.values = x, producers, values
        self.ops: dict[int, Op] = {}
        self.tensor: Tensor | None = None

    def value(self, arg: Any, depth: int) -> Expr | None:
        if is_number(arg):
            return algebra.number(arg)
        if not isinstance(arg, Ref):
            return None
        if arg.id == self.x:
            return algebra.X
        constant = self.values[arg.id].constant
        if constant is not None and constant.is_meta:
            return None
        if constant is not None and constant.numel() == 1:
            return algebra.number(float(constant))
        if constant is not None:
            if self.tensor is not None and self.tensor is not constant:
                return None
            self.tensor = constant
            return algebra.TENSOR
        made = self.producers.get(arg.id)
        return None if made is None or depth > _DEPTH else self.op(made, depth + 1)

    def op(self, op: Op, depth: int) -> Expr | None:
        expression = self._read(op, depth)
        if expression is not None:
            self.ops[op.index] = op
        return expression

    def _read(self, op: Op, depth: int) -> Expr | None:
        name, args = op.name, op.args
        if name == "where":
            return self._where(op, depth)
        a = self.value(args.get("input", args.get("0")), depth)
        if a is None:
            return None
        if name in _PASS:
            return a
        if name == "zeros_like":
            return algebra.number(0)
        if name == "expm1":
            return algebra.add(algebra.fn("exp", a), algebra.number(-1))
        if name == "erfc":
            return algebra.add(algebra.number(1), algebra.mul(algebra.number(-1), algebra.fn("erf", a)))
        if name == "ndtr":  # the normal distribution function
            inner = algebra.mul(algebra.number(0.5**0.5), a)
            return algebra.mul(algebra.number(0.5), algebra.add(algebra.number(1), algebra.fn("erf", inner)))
        if name == "logsigmoid":
            minus = algebra.number(-1)
            return algebra.mul(minus, algebra.fn("softplus", algebra.mul(minus, a)))
        if name in _SMOOTH:
            return algebra.fn(name, a)
        if name == "relu":
            return algebra.clamp(a, 0.0, float("inf"))
        if name in ("clamp", "hardtanh"):
            bounds = _bounds(op, self.values)
            return None if bounds is None else algebra.clamp(a, *bounds)
        if name == "masked_fill":
            return self._filled(op, a, depth)
        if name == "softplus":
            plain = _float(args.get("beta"), 1.0) == 1.0
            return algebra.fn("softplus", a) if plain else None
        if name == "neg":
            return algebra.mul(algebra.number(-1), a)
        if name == "square":
            return algebra.power(a, 2)
        if name == "reciprocal":
            return algebra.power(a, -1)
        if name == "sqrt":
            return algebra.power(a, 0.5)
        if name in ("log", "log1p"):
            inner = algebra.add(a, algebra.number(1)) if name == "log1p" else a
            plain_softplus = algebra.add(algebra.number(1), algebra.fn("exp", algebra.X))
            if inner == plain_softplus and depth > 0:
                return algebra.fn("softplus", algebra.X)
            return algebra.fn("log", inner)
        if name == "pow":
            n = args.get("exponent", args.get("1"))
            return algebra.power(a, _float(n, 1.0)) if is_number(n) else None
        b = self.value(args.get("other", args.get("1")), depth)
        if b is None:
            return None
        if name == "mul":
            return algebra.mul(a, b)
        if name == "div":
            return algebra.mul(a, algebra.power(b, -1))
        if name in ("gt", "ge"):
            return algebra.fn("step", a) if b == algebra.number(0) else None
        if name in ("add", "sub"):
            alpha = _float(args.get("alpha"), 1.0)
            return algebra.add(a, algebra.mul(algebra.number(alpha if name == "add" else -alpha), b))
        if name in ("maximum", "minimum") and (algebra.is_constant(a) or algebra.is_constant(b)):
            varying, limit = (b, a[1]) if algebra.is_constant(a) else (a, b[1])
            infinite = float("inf")
            return algebra.clamp(varying, *((limit, infinite) if name == "maximum" else (-infinite, limit)))
        if name in ("maximum", "minimum", "logaddexp"):
            return algebra.fn2(name, a, b)
        return None

    def _filled(self, op: Op, a: Expr, depth: int) -> Expr | None:
        """`x.masked_fill(x < 0, 0)`: ReLU."""
        mask, fill = op.args.get("mask"), self.value(op.args.get("value"), depth)
        test = self.producers.get(mask.id) if isinstance(mask, Ref) else None
        if test is None or test.name not in ("lt", "le") or fill != algebra.number(0) or a != algebra.X:
            return None
        over, zero = self.value(test.args.get("input"), depth), self.value(test.args.get("other"), depth)
        self.ops[test.index] = test
        return algebra.clamp(a, 0.0, float("inf")) if over == a and zero == algebra.number(0) else None

    def _where(self, op: Op, depth: int) -> Expr | None:
        """`where(x > 0, x, s*x)`: LeakyReLU with slope s; `where(x > 0, x, a*(exp(x)-1))`: ELU."""
        condition = op.args.get("condition", op.args.get("0"))
        test = self.producers.get(condition.id) if isinstance(condition, Ref) else None
        if test is None or test.name not in ("gt", "ge", "lt", "le"):
            return None
        over = self.value(test.args.get("input"), depth)
        zero = self.value(test.args.get("other"), depth)
        a = self.value(op.args.get("input", op.args.get("1")), depth)
        b = self.value(op.args.get("other", op.args.get("2")), depth)
        if over != algebra.X or zero != algebra.number(0) or a is None or b is None:
            return None
        self.ops[test.index] = test
        if test.name in ("lt", "le"):
            a, b = b, a
        if a != algebra.X:
            return None
        if algebra.is_constant(b) and b[1] == 0:
            return algebra.clamp(a, 0.0, float("inf"))
        if b[0] == "*" and b[2] == algebra.X[2]:
            return algebra.fn("where", algebra.X, b[1])
        exp = algebra.fn("exp", algebra.X)[2]
        if b[0] == "+" and len(b[2]) == 1 and b[2][0][1] == exp and abs(b[1] + b[2][0][0]) < 1e-6:
            return algebra.fn("where_elu", algebra.X, b[2][0][0])
        return None
