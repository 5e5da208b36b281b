"""The ONNX form of every activation: signatures of domain `actswap`, and bodies in standard operators.

A node takes x first and then the parameters in the order of the torch operator `actswap::<name>`. Parameters
are float32 whatever the type of x, and the arithmetic is float32, as in PyTorch. Those that belong to
channels are stored so that they broadcast against x (`(C, 1, 1)` for NCHW, `(C,)` for a last axis, a scalar
for one set per layer), so neither a body nor a kernel has to know the axis. Operators that pool carry
`dim`, the channel axis, `axes`, the pooled axes, and `view`, the shape in which one value per sample and
channel broadcasts against x; DY-ReLU also `table`, the shape of a sample's coefficients (0 stands for the
batch in both).

`lower` turns the arguments of a torch operator into that form. A function body cannot branch on an
attribute, so variants are operators of their own: `PauB_5_4` is form B with degrees (5, 4); its coefficients
come constant first along axis 0.

At infinite x a body may give NaN (0 times infinity). PyTorch and the kernels give the limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from actswap.activations.base import OnnxFunction
from actswap.onnx.expressions import expression_function
from actswap.onnx.rational import opau_function, pau_function

DOMAIN = "actswap"
VERSION = 1

Array = npt.NDArray[Any]
Attributes = dict[str, int | float | list[int]]


_KERNELS = re.compile(
    r"Swish(Skip)?|Acon[BC]|MetaAcon(Mean)?|DyReLU(Mean|C)?(_[134])?|Convolution"
    r"|(Pau(Unsafe|[ABC])|Opau(ChebyshevT|ChebyshevU|Legendre|Laguerre|HermiteProb|HermitePhys)(Unsafe)?)_(?P<p>\d)_(?P<q>\d)"
)


def has_kernel(op: str) -> bool:
    """Return whether the library for ONNX Runtime has a kernel for an operator of domain `actswap`.

    Padé units have one if their degrees (p, q) are 1 to 8 and p - 2 <= q <= p.

    >>> has_kernel("AconC"), has_kernel("net/AconC"), has_kernel("PauA_5_4"), has_kernel("PauA_2_5")
    (True, False, True, False)
    """
    match = _KERNELS.fullmatch(op) if isinstance(op, str) else None  # a damaged file's names may be bytes
    if match is None or match["p"] is None:
        return match is not None
    p, q = int(match["p"]), int(match["q"])
    return 1 <= p <= 8 and max(1, p - 2) <= q <= p


@dataclass(frozen=True)
class Lowered:
    """A node of domain `actswap`: its function, its inputs after x, and its attributes."""

    function: OnnxFunction
    inputs: tuple[Array, ...]
    attributes: Attributes


def _body(text: str) -> str:
    return f"\n    xf = Cast <to = 1> (x)\n{text}\n    y = CastLike (yf, x)\n"


# (p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x. Every step is a product with a (C, 1, 1) constant, because ONNX Runtime
# keeps those in its blocked layout. That saves more time than a shorter form with two products less.
_ACON = """
    d = Sub (p1, p2)
    dx = Mul (xf, d)
    z = Mul (dx, beta)
    s = Sigmoid (z)
    u = Mul (dx, s)
    v = Mul (xf, p2)
    yf = Add (u, v)
"""

_POOL = """
    axes = Constant <value_ints: ints = @axes> ()
    view = Constant <value_ints: ints = @view> ()
    kept = ReduceMean <keepdims = 1, noop_with_empty_axes = 1> (xf, axes)
    mean = Flatten <axis = 1> (kept)
    hidden = Gemm <transB = 1> (mean, w1, b1)
"""

_POOL_ATTRIBUTES = {"axes": "ints", "view": "ints", "dim": "int"}

SWISH = OnnxFunction(
    "Swish",
    ("x", "beta"),
    {},
    _body("""
    z = Mul (xf, beta)
    s = Sigmoid (z)
    yf = Mul (xf, s)
"""),
)
# An ACON whose scales were folded into the layers around it. Runtimes have x sigmoid(x) as one operator.
SWISH_SKIP = OnnxFunction(
    "SwishSkip",
    ("x", "beta", "skip"),
    {},
    _body("""
    z = Mul (xf, beta)
    s = Sigmoid (z)
    u = Mul (xf, s)
    v = Mul (xf, skip)
    yf = Add (u, v)
"""),
)
ACON_B = OnnxFunction(
    "AconB",
    ("x", "p", "beta"),
    {},
    _body(
        """
    p1 = Constant <value = float {1.0}> ()
    p2 = Identity (p)
"""
        + _ACON
    ),
)
ACON_C = OnnxFunction("AconC", ("x", "p1", "p2", "beta"), {}, _body(_ACON))
META_ACON = OnnxFunction(
    "MetaAcon",
    ("x", "p1", "p2", "scale", "w1", "b1", "w2", "b2"),
    _POOL_ATTRIBUTES,
    _body(
        _POOL
        + """
    logit = Gemm <transB = 1> (hidden, w2, b2)
    gate = Sigmoid (logit)
    sharp = Mul (gate, scale)
    beta = Reshape (sharp, view)
"""
        + _ACON
    ),
)


def _lines(count: int) -> str:
    """The coefficients of `count` lines per sample and channel, and their maximum, named `line`."""
    names = [f"c{j}" for j in range(2 * count)]
    text = (
        _POOL
        + f"""
    active = Relu (hidden)
    logit = Gemm <transB = 1> (active, w2, b2)
    gate = Sigmoid (logit)
    table = Constant <value_ints: ints = @table> ()
    gates = Reshape (gate, table)
    one = Constant <value = float {{1.0}}> ()
    two = Constant <value = float {{2.0}}> ()
    double = Mul (gates, two)
    theta = Sub (double, one)
    residual = Mul (theta, lambdas)
    coef = Add (residual, init)
    {", ".join(names)} = Split <axis = 1, num_outputs = {2 * count}> (coef)
"""
    )
    for k in range(count):
        text += f"""
    slope{k} = Reshape (c{k}, view)
    shift{k} = Reshape (c{count + k}, view)
    scaled{k} = Mul (xf, slope{k})
    line{k} = Add (scaled{k}, shift{k})
"""
    return text + f"    line = Max ({', '.join(f'line{k}' for k in range(count))})\n"


def dy_relu_function(count: int) -> OnnxFunction:
    """DY-ReLU A and B with `count` lines; two are `DyReLU`, another number is part of the name."""
    return OnnxFunction(
        "DyReLU" if count == 2 else f"DyReLU_{count}",
        ("x", "w1", "b1", "w2", "b2", "init", "lambdas"),
        {**_POOL_ATTRIBUTES, "table": "ints"},
        _body(_lines(count) + "    yf = Identity (line)\n"),
    )


def dy_relu_c_function(count: int) -> OnnxFunction:
    """DY-ReLU C: DY-ReLU times an attention over positions."""
    return OnnxFunction(
        "DyReLUC" if count == 2 else f"DyReLUC_{count}",
        ("x", "w1", "b1", "w2", "b2", "init", "lambdas", "ws", "bs"),
        {**_POOL_ATTRIBUTES, "table": "ints", "channel": "ints", "tau": "float", "gain": "float"},
        _body(
            _lines(count)
            + """
    channel = Constant <value_ints: ints = @channel> ()
    tau = Constant <value_float: float = @tau> ()
    gain = Constant <value_float: float = @gain> ()
    weighted = Mul (xf, ws)
    total = ReduceSum <keepdims = 1> (weighted, channel)
    score = Add (total, bs)
    cool = Div (score, tau)
    flat = Flatten <axis = 1> (cool)
    share = Softmax <axis = 1> (flat)
    positions = Shape <start = 1> (flat)
    count = Cast <to = 1> (positions)
    three = Constant <value = float {3.0}> ()
    gamma = Div (count, three)
    raw = Mul (share, gamma)
    full = Constant <value = float {1.0}> ()
    capped = Min (raw, full)
    gained = Mul (capped, gain)
    place = Shape (score)
    attention = Reshape (gained, place)
    yf = Mul (line, attention)
"""
        ),
    )


Lowering = Callable[[Mapping[str, Array], Mapping[str, Any], int], Lowered]


def along_channels(parameter: Array, dim: int, rank: int) -> Array:
    """Shape a (C,) or (1,) parameter so that it broadcasts along axis `dim` of a tensor of `rank` axes."""
    if parameter.size == 1:
        return parameter.reshape(())
    return parameter.reshape((-1,) + (1,) * (rank - 1 - dim % rank))


def _pooling(features: int, width: int, dim: int, rank: int) -> Attributes:
    """The pooled axes, and the shape of one value per sample and channel.

    With one feature, the channels are pooled too.
    """
    dim = max(dim % rank, 1)  # 0 is the axis of samples: all share one set of parameters, so any axis will do
    axes = [axis for axis in range(1, rank) if axis != dim or features == 1]
    return {
        "dim": dim,
        "axes": axes,
        "view": [0 if axis == 0 else width if axis == dim else 1 for axis in range(rank)],
    }


def sample_axis(tensors: Mapping[str, Array], dim: int, rank: int) -> int | None:
    """Return the position of an axis that x lacks: of samples in front, or of channels behind.

    An operator that pools has its channels on axis 1 or later. If x has no axis of samples, it is one sample. If x is a
    bare vector that is pooled over its channels too, each value is a sample.

    Returns:
        The axis to add; None if x has both axes, or nothing is pooled.
    """
    if "w1" not in tensors:
        return None
    features = tensors["w1"].shape[1]
    if rank == 1:
        return 0 if features > 1 else 1
    return 0 if features > 1 and dim % rank == 0 else None


def _elementwise(function: OnnxFunction) -> Lowering:
    def lowering(tensors: Mapping[str, Array], scalars: Mapping[str, Any], rank: int) -> Lowered:
        names = function.inputs[1:]
        return Lowered(function, tuple(along_channels(tensors[n], scalars["dim"], rank) for n in names), {})

    return lowering


def _meta_acon(tensors: Mapping[str, Array], scalars: Mapping[str, Any], rank: int) -> Lowered:
    shaped = [along_channels(tensors[name], scalars["dim"], rank) for name in ("p1", "p2")]
    rest = [tensors[name] for name in META_ACON.inputs[3:]]
    width = max(tensors["w2"].shape[0], tensors["scale"].size)
    attributes = _pooling(tensors["w1"].shape[1], width, scalars["dim"], rank)
    return Lowered(META_ACON, (*shaped, *rest), attributes)


def _dy_relu(tensors: Mapping[str, Array], scalars: Mapping[str, Any], rank: int) -> Lowered:
    rows = tensors["lambdas"].size
    spatial = "ws" in tensors
    function = dy_relu_c_function(rows // 2) if spatial else dy_relu_function(rows // 2)
    shaped = {
        "init": tensors["init"].reshape(rows, -1),
        "lambdas": tensors["lambdas"].reshape(rows, 1),
        **(
            {"ws": along_channels(tensors["ws"], scalars["dim"], rank), "bs": tensors["bs"].reshape(())}
            if spatial
            else {}
        ),
    }
    width = max(tensors["w2"].shape[0] // rows, shaped["init"].shape[1])
    attributes = _pooling(tensors["w1"].shape[1], width, scalars["dim"], rank)
    attributes["table"] = [0, rows, tensors["w2"].shape[0] // rows]
    if spatial:
        attributes.update(channel=[scalars["dim"] % rank], tau=float(scalars["tau"]), gain=float(scalars["gain"]))
    return Lowered(function, tuple({**tensors, **shaped}[name] for name in function.inputs[1:]), attributes)


def _columns(coefficients: Array, dim: int, rank: int) -> Array:
    """Turn (n,) or (C, n) coefficients into (n,) or (n, C, 1, 1): constant first along axis 0."""
    if coefficients.ndim == 1 or coefficients.shape[0] == 1:
        return coefficients.reshape(-1)
    columns: Array = coefficients.T
    return columns.reshape((columns.shape[0], -1) + (1,) * (rank - 1 - dim % rank))


def _pau(tensors: Mapping[str, Array], scalars: Mapping[str, Any], rank: int) -> Lowered:
    shaped = tuple(_columns(tensors[name], scalars["dim"], rank) for name in ("a", "b", "tails"))
    return Lowered(pau_function(scalars["form"], len(shaped[0]), len(shaped[1])), shaped, {})


def _opau(tensors: Mapping[str, Array], scalars: Mapping[str, Any], rank: int) -> Lowered:
    shaped = tuple(_columns(tensors[name], scalars["dim"], rank) for name in ("c", "d", "tails"))
    function = opau_function(scalars["basis"], bool(scalars["safe"]), len(shaped[0]), len(shaped[1]))
    return Lowered(function, shaped, {})


def _expression(tensors: Mapping[str, Array], scalars: Mapping[str, Any], rank: int) -> Lowered:
    rows = (along_channels(row, scalars["dim"], rank) for row in tensors["numbers"])
    return Lowered(expression_function(scalars["text"]), tuple(rows), {})


LOWERINGS: Mapping[str, Lowering] = {
    "swish": _elementwise(SWISH),
    "acon_b": _elementwise(ACON_B),
    "acon_c": _elementwise(ACON_C),
    "meta_acon": _meta_acon,
    "dy_relu": _dy_relu,
    "dy_relu_c": _dy_relu,
    "pau": _pau,
    "opau": _opau,
    "expression": _expression,
}


def lower(name: str, tensors: Mapping[str, Array], scalars: Mapping[str, Any], rank: int) -> Lowered:
    """Return the node that computes the torch operator `actswap::<name>`.

    Args:
        name: torch operator name without its namespace, e.g. `acon_c`.
        tensors: its tensor arguments after x, by name.
        scalars: its other arguments, by name.
        rank: number of axes of x.
    """
    return LOWERINGS[name]({k: v.astype(np.float32) for k, v in tensors.items()}, scalars, rank)
