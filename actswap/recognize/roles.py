"""What an activation is for: shaping features, or gating them.

1. A sigmoid, hard-sigmoid, tanh or softplus whose result multiplies something (squeeze-excite, GLU, GRU): `gate`.
2. One whose result never reaches another layer (a probability or a box at the output), or only as its weight: `gate`.
3. Everything else: `activation`.

`on_features` tells a ReLU written as clamp or maximum from the clamping of boxes, indices and positions: it has to
read what a layer produced, through nothing but additions and reshapes, and to be read by a layer in turn.
"""

from __future__ import annotations

from actswap.capture.tape import Op, Ref, Tape
from actswap.recognize.matches import Match

_SQUASHING = frozenset(("sigmoid", "hardsigmoid", "tanh", "softplus", "logsigmoid", "softsign"))
_CARRY = frozenset(
    (
        "view",
        "reshape",
        "permute",
        "transpose",
        "unsqueeze",
        "squeeze",
        "expand",
        "expand_as",
        "flatten",
        "getitem",
    )
    + (
        "chunk",
        "split",
        "contiguous",
        "dropout",
        "to",
        "float",
        "interpolate",
        "cat",
        "unflatten",
        "clone",
        "add",
    )
    + (
        "type_as",
        "mean",
        "adaptive_avg_pool2d",
        "avg_pool2d",
        "max_pool2d",
        "identity",
        "pad",
        "stack",
        "movedim",
    )
    + ("adaptive_avg_pool1d", "max_pool1d", "adaptive_max_pool2d", "adaptive_avg_pool3d", "max_pool3d", "sum")
)
_UNARY = frozenset(
    ("relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "silu", "gelu", "mish", "hardswish", "hardtanh")
    + ("clamp", "tanh", "sigmoid", "hardsigmoid", "softplus", "softsign")
)
_LAYERS = (
    "conv",
    "linear",
    "batch_norm",
    "layer_norm",
    "group_norm",
    "instance_norm",
    "matmul",
    "mm",
    "addmm",
    "bmm",
    "einsum",
    "rms_norm",
)

_PRODUCTS = ("matmul", "addmm", "bmm", "einsum")


def role(match: Match, tape: Tape, consumers: dict[int, list[Op]]) -> str:
    """Return `activation` or `gate`."""
    if match.source.kind == "glu":
        return "gate"
    if match.source.kind not in _SQUASHING:
        return "activation"
    return "activation" if _reaches_layer(match.root.outs[0], tape, consumers, gate_stops=True) else "gate"


def on_features(match: Match, tape: Tape, producers: dict[int, Op], consumers: dict[int, list[Op]]) -> bool:
    """True where a clamp-like operation acts on the features of a network."""
    return _comes_from_layer(match.x, tape, producers) and _reaches_layer(match.root.outs[0], tape, consumers)


def _is_layer(op: Op) -> bool:
    return op.name.startswith(_LAYERS)


def _reaches_layer(value: int, tape: Tape, consumers: dict[int, list[Op]], gate_stops: bool = False) -> bool:
    queue, seen = [value], {value}
    for _ in range(64):
        if not queue:
            return False
        here = queue.pop(0)
        for op in consumers.get(here, ()):
            if gate_stops and op.name in ("mul", "div", "addcmul", "lerp", "einsum", "bmm", "matmul"):
                if op.name in ("mul", "div") and not _both_vary(op, tape):
                    queue += [o for o in op.outs if o not in seen]
                    continue
                return False
            if _is_layer(op):
                if _as_features(op, here):
                    return True
                continue
            if op.name in _CARRY or op.name in (_UNARY if gate_stops else ("mul",)):
                queue += [o for o in op.outs if o not in seen]
                seen.update(op.outs)
    return False


def _as_features(op: Op, value: int) -> bool:
    """False where a layer takes the value for its weight: softplus in a parametrization shapes no features."""
    weights = [op.args.get(key) for key in ("1", "2", "weight", "bias")] if not op.name.startswith(_PRODUCTS) else []
    return all(Ref(value) != weight for weight in weights)


def _both_vary(op: Op, tape: Tape) -> bool:
    sides = [a for a in op.args.values() if isinstance(a, Ref)]
    return len(sides) > 1 and all(tape.values[s.id].constant is None for s in sides)


def _comes_from_layer(value: int, tape: Tape, producers: dict[int, Op]) -> bool:
    queue, seen = [value], {value}
    for _ in range(64):
        if not queue:
            return False
        op = producers.get(queue.pop(0))
        if op is None:
            continue
        if _is_layer(op) and op.name not in ("matmul", "bmm", "einsum"):
            return True
        if op.name in _CARRY:
            fresh = [r for r in op.refs() if r not in seen and tape.values[r].constant is None]
            queue += fresh
            seen.update(fresh)
    return False
