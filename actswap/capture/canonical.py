"""Give every spelling of an operation one name and one argument list.

`F.relu(x, inplace=True)`, `torch.relu(x)`, `x.relu_()` and `aten.relu` are all `relu(input)`; `2 * x`, `x.mul(2)`,
`torch.mul(x, 2)` and `x *= 2` are all `mul(input, other)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# Argument names of the operations that the recognizers look into; anything else keeps positions ("0", "1", ...).
_SIGNATURES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "relu",
            "relu6",
            "selu",
            "silu",
            "hardswish",
            "hardsigmoid",
            "mish",
            "tanhshrink",
            "softsign",
            "logsigmoid",
        ),
        ("input", "inplace"),
    ),
    **dict.fromkeys(
        (
            "sigmoid",
            "tanh",
            "erf",
            "erfc",
            "ndtr",
            "exp",
            "neg",
            "square",
            "sqrt",
            "log1p",
            "log",
            "abs",
            "reciprocal",
            "contiguous",
        ),
        ("input",),
    ),
    "gelu": ("input", "approximate"),
    "leaky_relu": ("input", "negative_slope", "inplace"),
    "elu": ("input", "alpha", "inplace"),
    "celu": ("input", "alpha", "inplace"),
    "prelu": ("input", "weight"),
    "rrelu": ("input", "lower", "upper", "training", "inplace"),
    "hardtanh": ("input", "min_val", "max_val", "inplace"),
    "softplus": ("input", "beta", "threshold"),
    "hardshrink": ("input", "lambd"),
    "softshrink": ("input", "lambd"),
    "threshold": ("input", "threshold", "value", "inplace"),
    "glu": ("input", "dim"),
    "clamp": ("input", "min", "max"),
    "clamp_min": ("input", "min"),
    "clamp_max": ("input", "max"),
    **dict.fromkeys(("mul", "div", "sub", "add", "maximum", "minimum", "gt", "ge", "lt", "le"), ("input", "other")),
    "pow": ("input", "exponent"),
    "masked_fill": ("input", "mask", "value"),
    "where": ("condition", "input", "other"),
    "softmax": ("input", "dim"),
    "dropout": ("input", "p", "training", "inplace"),
    **dict.fromkeys(("transpose", "swapaxes"), ("input", "dim0", "dim1")),
    "movedim": ("input", "source", "destination"),
    "flatten": ("input", "start_dim", "end_dim"),
    "unflatten": ("input", "dim", "sizes"),
    **dict.fromkeys(("unsqueeze", "squeeze"), ("input", "dim")),
    "cat": ("tensors", "dim"),
    "stack": ("tensors", "dim"),
    **dict.fromkeys(("chunk", "split", "unbind", "narrow"), ("input", "1", "dim")),
    "getitem": ("input", "index"),
    "layer_norm": ("input", "normalized_shape"),
}
_SAME = {
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "truediv": "div",
    "subtract": "sub",
    "negative": "neg",
    "expit": "sigmoid",
    "special_expit": "sigmoid",
    "special_erf": "erf",
    "special_erfc": "erfc",
    "special_ndtr": "ndtr",
    "swish": "silu",
    "hard_swish": "hardswish",
    "hard_sigmoid": "hardsigmoid",
    "log_sigmoid": "logsigmoid",
    "prelu_kernel": "prelu",
    "max": "maximum",
    "min": "minimum",
    "concat": "cat",
    "concatenate": "cat",
    "clip": "clamp",
    "absolute": "abs",
    "_threshold": "threshold",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "swapdims": "transpose",
    "moveaxis": "movedim",
    "pos": "identity",
}
_REVERSED = {"radd": "add", "rmul": "mul", "rsub": "sub", "rdiv": "div", "rtruediv": "div", "rpow": "pow"}
_INPLACE_DUNDER = {
    "iadd": "add",
    "imul": "mul",
    "isub": "sub",
    "itruediv": "div",
    "idiv": "div",
    "ipow": "pow",
}


class Canonical(NamedTuple):
    """A normalised call: name, arguments by name, and whether it overwrites its input."""

    name: str
    args: dict[str, Any]
    inplace: bool


def name_of(func: Callable[..., Any] | str) -> tuple[str, bool, bool]:
    """Return (canonical name, overwrites its input, operands are swapped) for a function, method or its name."""
    name = func if isinstance(func, str) else getattr(func, "__name__", str(func))
    name = name.split(".")[0]
    swapped = inplace = False
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
    elif name.endswith("_") and not name.startswith("__"):
        name, inplace = name[:-1], True
    if name.startswith("_") and name.lstrip("_") in ("prelu_kernel", "softmax"):
        name = name.lstrip("_")
    if name in _REVERSED:
        name, swapped = _REVERSED[name], True
    elif name in _INPLACE_DUNDER:
        name, inplace = _INPLACE_DUNDER[name], True
    return _SAME.get(name, name), inplace, swapped


def canonical(func: Callable[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Canonical:
    """Normalise one call."""
    name, inplace, swapped = name_of(func)
    names = _SIGNATURES.get(name, ())
    bound = {names[i] if i < len(names) else str(i): arg for i, arg in enumerate(args)}
    for key, value in kwargs.items():
        bound[{"x": "input", "self": "input", "axis": "dim", "axis0": "dim0", "axis1": "dim1"}.get(key, key)] = value
    if swapped and {"input", "other"} <= bound.keys():
        bound["input"], bound["other"] = bound["other"], bound["input"]
    if name == "div" and bound.get("rounding_mode") is not None:
        name = "floor_divide"
    inplace = bool(bound.pop("inplace", False)) or inplace
    if name == "relu6":
        name, bound = "hardtanh", {**bound, "min_val": 0.0, "max_val": 6.0}
    if name == "clamp_min":
        name, bound = "clamp", {"input": bound.get("input"), "min": bound.get("min"), "max": None}
    if name == "clamp_max":
        name, bound = "clamp", {"input": bound.get("input"), "min": None, "max": bound.get("max")}
    return Canonical(name, bound, inplace)


def is_number(value: Any) -> bool:
    """Return True for a finite Python number that is no `bool`."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
