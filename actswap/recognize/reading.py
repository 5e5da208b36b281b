"""Read operations as an expression in one value x, whether they come from a tape or from an fx graph.

What does not depend on an activation's input (numbers, parameters, buffers, tensors made of them by reshaping or by
elementwise functions) is a constant of the formula. Numbers and single literals are written into the expression;
parameters and buffers of the model never are, because training and loading change them: they are `("p", k)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actswap.activations.formula import FUNCTIONS, Expr, X, compute
from actswap.activations.plain import PLAIN
from actswap.capture.canonical import is_number
from actswap.capture.tape import Op, Ref, Value

PASS = frozenset(("contiguous", "clone", "identity", "alias", "detach"))
PASS |= {"to", "float", "double", "type_as", "type", "half", "bfloat16"}
_SHAPE = frozenset(("view", "reshape", "unsqueeze", "squeeze", "expand", "expand_as", "view_as", "reshape_as"))
_SHAPE |= {
    "flatten",
    "permute",
    "transpose",
    "t",
    "getitem",
    "unflatten",
    "movedim",
    "broadcast_to",
    "select",
    "narrow",
}
_LISTS = frozenset(("unbind", "broadcast_tensors", "chunk", "split"))
_MADE = {"zeros_like": 0.0, "ones_like": 1.0, "new_zeros": 0.0, "new_ones": 1.0}
_FILLED = frozenset(("full_like", "new_full"))
_OTHER_NAMES = {"fmax": "maximum", "fmin": "minimum", "special_log_ndtr": "log_ndtr", "special_expm1": "expm1"}
_OTHER_NAMES |= {"special_exp2": "exp2", "special_sinc": "sinc", "special_log1p": "log1p", "arctan": "atan"}
_OTHER_NAMES |= {"arcsinh": "asinh", "arcsin": "asin", "arccos": "acos", "arctanh": "atanh", "arccosh": "acosh"}
_UNARY = frozenset(name for name in FUNCTIONS if name not in PLAIN) - {"where", "clamp", "heaviside"}
_BINARY = frozenset(("add", "sub", "mul", "div", "pow", "maximum", "minimum", "logaddexp"))
_BINARY |= {"gt", "ge", "lt", "le", "eq", "ne"}
_SPECIAL = frozenset(("where", "masked_fill", "clamp", "hardtanh", "heaviside", "prelu", "rrelu", "gelu", "addcmul"))
_SPECIAL |= {"float_power"} | _FILLED
ELEMENTWISE = _UNARY | _BINARY | _SPECIAL | PASS | _OTHER_NAMES.keys() | _MADE.keys()
ELEMENTWISE |= PLAIN.keys() & FUNCTIONS.keys()
_DEPTH = 24
_SIZE = 120  # operations in one formula


@dataclass(frozen=True)
class Leaf:
    """A constant tensor of a formula.

    Attributes:
        tensor: its value; broadcasts with x.
        names: the parameters and buffers it is made of; empty for a literal.
        shape: its shape as the formula reads it, None if only a graph was seen.
    """

    tensor: Tensor
    names: tuple[str, ...]
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Reading:
    """An expression in x, its constant tensors, and the operations that it was read from."""

    expression: Expr
    leaves: tuple[Leaf, ...]
    ops: tuple[Op, ...]


class Constants:
    """The constant values of a list of operations, computed as they are asked for."""

    def __init__(self, producers: Mapping[int, Op], values: Mapping[int, Value]) -> None:
        self.producers, self.values = producers, values
        self._known: dict[int, Leaf | None] = {}

    def of(self, value: int) -> Leaf | None:
        """Return a value as a constant, or None if it depends on an input."""
        if value not in self._known:
            self._known[value] = None  # a cycle cannot be, but a value that is being read is no constant yet
            self._known[value] = self._find(value)
        return self._known[value]

    def _find(self, value: int) -> Leaf | None:
        found = self.values[value]
        if found.constant is not None:
            return Leaf(found.constant, (found.name,) if found.name else (), tuple(found.constant.shape))
        op = self.producers.get(value)
        if op is None or op.inplace:
            return None
        shape = found.shape or None
        if op.name in PASS or op.name in _SHAPE or op.name in _LISTS:
            source = op.args.get("input", op.args.get("0", op.args.get("tensors")))
            if op.name == "broadcast_tensors":
                source = list(op.refs())[op.outs.index(value)] if len(op.outs) == len(list(op.refs())) else None
                source = None if source is None else Ref(source)
            leaf = self.of(source.id) if isinstance(source, Ref) else None
            if leaf is None or leaf.tensor.is_meta or op.name in PASS or op.name == "broadcast_tensors":
                return leaf
            return _reshaped(op, leaf, value, shape)
        if op.name not in ELEMENTWISE or not any(True for _ in op.refs()):
            return None
        if any(self.of(ref) is None for ref in op.refs()):
            return None
        reading = Reader(-1, self).read(op)
        if reading is None or any(leaf.tensor.is_meta for leaf in reading.leaves):
            return None
        with torch.no_grad():
            zero = torch.zeros((), dtype=torch.float64)
            tensor = compute(reading.expression, zero, [leaf.tensor.double() for leaf in reading.leaves])
        names = tuple(dict.fromkeys(n for leaf in reading.leaves for n in leaf.names))
        return Leaf(tensor, names, shape)


def _reshaped(op: Op, leaf: Leaf, value: int, shape: tuple[int, ...] | None) -> Leaf | None:
    """A constant after an operation on its shape: by the shape that was seen, else by doing it again."""
    tensor = leaf.tensor
    if op.name in ("expand", "expand_as", "broadcast_to"):
        return leaf  # it broadcasts anyway
    if op.name in ("getitem", "select", "narrow", "unbind", "chunk", "split", "permute", "transpose", "t", "movedim"):
        if any(isinstance(r, Ref) for k, r in op.args.items() if k != "input"):
            return None
        try:
            if op.name == "getitem":
                return Leaf(tensor[op.args["index"]], leaf.names, shape)
            rest = [v for k, v in op.args.items() if k not in ("input", "0")]
            made = getattr(torch, op.name)(tensor, *rest)
            made = made[op.outs.index(value)] if isinstance(made, (tuple, list)) else made
        except (RuntimeError, TypeError, IndexError, AttributeError, ValueError):
            return None
        return Leaf(made, leaf.names, shape)
    if shape is not None and math.prod(shape) == tensor.numel():
        return Leaf(tensor.reshape(shape), leaf.names, shape)
    return Leaf(tensor, leaf.names, shape)


class Reader:
    """Read operations as an expression in the value `x`, remembering what it is made of.

    Args:
        x: number of the variable.
        constants: the constants around it.
        marks: values that are not read further; they become `("m", k)`.
    """

    def __init__(self, x: int, constants: Constants, marks: Mapping[int, int] | None = None) -> None:
        self.x, self.constants, self.marks = x, constants, marks or {}
        self.ops: dict[int, Op] = {}
        self.leaves: list[Leaf] = []
        self._seen: dict[int, Expr | None] = {}

    def read(self, root: Op) -> Reading | None:
        """Read an operation, or return None if it is no elementwise function of x and constants."""
        expression = self._op(root, 0)
        if expression is None:
            return None
        varying = (o for o in self.ops.values() if any(self.constants.of(out) is None for out in o.outs))
        ops = tuple(sorted(varying, key=lambda o: o.index))
        return Reading(expression, tuple(self.leaves), ops)

    def value(self, arg: Any, depth: int = 0) -> Expr | None:
        """Read an argument of an operation."""
        if is_number(arg) or (isinstance(arg, float) and math.isinf(arg)):
            return float(arg)
        if isinstance(arg, bool):
            return float(arg)
        if not isinstance(arg, Ref):
            return None
        if arg.id == self.x:
            return X
        if arg.id in self.marks:
            return ("m", self.marks[arg.id])
        if arg.id not in self._seen:
            made, leaf = self.constants.producers.get(arg.id), self.constants.of(arg.id)
            found: Expr | None = None
            if leaf is not None and (not leaf.names or made is None or made.name not in ELEMENTWISE - PASS):
                found = self._leaf(leaf)
            elif made is not None and depth <= _DEPTH:  # also 1 / p, since p may change
                found = self._op(made, depth + 1)
            self._seen[arg.id] = found
        return self._seen[arg.id]

    def _leaf(self, leaf: Leaf) -> Expr | None:
        if leaf.tensor.is_meta or leaf.tensor.is_complex():
            return None
        if leaf.tensor.numel() == 1 and not leaf.names:
            return float(leaf.tensor)
        key = next((k for k, known in enumerate(self.leaves) if _same(known, leaf)), None)
        if key is None:
            self.leaves.append(leaf)
            key = len(self.leaves) - 1
        return ("p", key)

    def _op(self, op: Op, depth: int) -> Expr | None:
        if op.name not in ELEMENTWISE or len(self.ops) > _SIZE:
            return None
        expression = self._read(op, depth)
        if expression is not None:
            self.ops[op.index] = op
        return expression

    def _read(self, op: Op, depth: int) -> Expr | None:
        name, args = _OTHER_NAMES.get(op.name, op.name), op.args

        def read(key: str, place: str) -> Expr | None:
            return self.value(args.get(key, args.get(place)), depth)

        if name == "where":
            parts = [read("condition", "0"), read("input", "1"), read("other", "2")]
            return None if None in parts else ("where", *parts)
        a = read("input", "0")
        if name in _MADE:
            return None if a is None else _MADE[name]
        if name in _FILLED:
            return None if a is None else read("fill_value", "2" if name == "new_full" else "1")
        if a is None or name in PASS:
            return a
        if name == "masked_fill":
            mask, fill = read("mask", "1"), read("value", "2")
            return None if mask is None or fill is None else ("where", mask, fill, a)
        if name in ("clamp", "hardtanh"):
            return self._clamp(op, a, depth)
        if name == "prelu":
            w = read("weight", "1")
            return None if w is None else ("where", ("ge", a, 0.0), a, ("mul", w, a))
        if name == "rrelu":
            return ("leaky_relu", a, mean_slope(op))
        if name == "gelu":
            return ("gelu_tanh" if args.get("approximate") == "tanh" else "gelu", a)
        if name in PLAIN and name in FUNCTIONS and name not in ("identity",):
            constants = constants_of(op)
            return None if constants is None else (name, a, *constants.values())
        if name in _UNARY and name not in _BINARY:
            return (name, a)
        if name in ("pow", "float_power"):
            n = read("exponent", "1")
            return None if n is None else ("pow", a, n)
        if name == "addcmul":
            one, two = read("tensor1", "1"), read("tensor2", "2")
            scaled = None if one is None or two is None else ("mul", one, two)
            return None if scaled is None else ("add", a, ("mul", _number(args.get("value"), 1.0), scaled))
        b = read("values", "1") if name == "heaviside" else read("other", "1")
        if b is None or (name not in _BINARY and name != "heaviside"):
            return None
        alpha = _number(args.get("alpha"), 1.0)
        if name in ("add", "sub") and alpha != 1.0:
            b = ("mul", alpha, b)
        return (name, a, b)

    def _clamp(self, op: Op, a: Expr, depth: int) -> Expr | None:
        names = ("min_val", "max_val") if op.name == "hardtanh" else ("min", "max")
        bounds: list[Expr] = [-1.0, 1.0] if op.name == "hardtanh" else [-math.inf, math.inf]
        for k, name in enumerate(names):
            if op.args.get(name) is not None:
                bound = self.value(op.args[name], depth)
                if bound is None or (isinstance(bound, tuple) and bound[0] != "p"):
                    return None
                bounds[k] = bound
        return ("clamp", a, *bounds)


def _same(a: Leaf, b: Leaf) -> bool:
    """Whether two constants are the same tensor; a graph reads a parameter anew for every use."""
    if a.tensor is b.tensor:
        return True
    if not a.names or a.names != b.names or a.tensor.shape != b.tensor.shape:
        return False
    return a.tensor.data_ptr() == b.tensor.data_ptr() and a.tensor.stride() == b.tensor.stride()


def constants_of(op: Op) -> dict[str, float] | None:
    """Return the constants of a call of torch's own function of this name, None if one is no number."""
    plain = PLAIN[op.name]
    found = {}
    for name, default in plain.constants.items():
        argument = plain.call.get(name, name)
        if not argument:
            continue
        given = op.args.get(argument, default)
        if not is_number(given):
            return None
        found[name] = float(given)
    return found


def mean_slope(op: Op) -> float:
    """Return the slope that a randomized leaky ReLU has in eval mode."""
    return (_number(op.args.get("lower"), 1 / 8) + _number(op.args.get("upper"), 1 / 3)) / 2


def _number(value: Any, default: float) -> float:
    return float(value) if is_number(value) else default


def common_axis(leaves: Sequence[Leaf], rank: int) -> tuple[int | None, int] | None:
    """Return the axis of x that the leaves differ along, and how many values they have there.

    Args:
        leaves: the constant tensors of a formula.
        rank: number of dimensions of x.

    Returns:
        (None, 1) if all have one element, None if they differ along several axes.
    """
    axis, width = None, 1
    for leaf in leaves:
        if leaf.tensor.numel() == 1:
            continue
        shape = leaf.shape if leaf.shape is not None else tuple(leaf.tensor.shape)
        wide = [rank - len(shape) + k for k, n in enumerate(shape) if n > 1]
        if len(wide) != 1 or wide[0] < 0 or axis not in (None, wide[0]) or width not in (1, leaf.tensor.numel()):
            return None
        axis, width = wide[0], leaf.tensor.numel()
    return axis, width
