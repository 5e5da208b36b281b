"""What an activation is for: shaping features, or gating them. Decided by what happens to its result.

1. It reaches a layer as that layer's input, through whatever is done on the way: `activation`.
2. It only ever multiplies a tensor that comes from elsewhere (squeeze-excite, GLU, LSTM cells), is a layer's weight, or
   ends as a probability, a position or an output: `gate`.

Only squashing functions are ever gates; any other named function is an activation. A clamp, or a formula that no row of
`PLAIN` names, is an activation only if it acts on features: what a layer produced, on its way to a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from actswap.capture.tape import Op, Ref, Tape
from actswap.recognize.matches import Match, is_tame
from actswap.recognize.reading import ELEMENTWISE, Constants
from actswap.sites import Role

_SQUASHING = frozenset(("sigmoid", "hardsigmoid", "tanh", "softplus", "logsigmoid", "softsign"))
_LAYERS = ("conv", "linear", "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "addmm", "bilinear")
_CONTRACTIONS = ("matmul", "mm", "bmm", "einsum", "baddbmm", "tensordot", "mv")
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward", "_native_multi_head_attention")
_READERS = _LAYERS + _CONTRACTIONS + _RECURRENT + _ATTENTION
_PRODUCTS = frozenset(("mul", "div", "addcmul", "addcdiv", "lerp"))
# Behind these a value is a weight, a position, a probability, or an order: no feature any more.
_ENDS = frozenset(("softmax", "log_softmax", "gumbel_softmax", "sin", "cos", "exp", "log", "cumsum", "cumprod", "norm"))
_ENDS |= {"grid_sample", "topk", "sort", "argsort", "multinomial", "bernoulli", "cdist", "setitem", "copy", "logsumexp"}
_REDUCTIONS = frozenset(("mean", "sum", "var", "std", "amax", "amin", "prod", "avg_pool1d", "avg_pool2d", "avg_pool3d"))
_REDUCTIONS |= {"adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "var_mean", "std_mean"}
# On the way of boxes, indices and positions there is more than this.
_CARRY = frozenset(
    ("view", "reshape", "permute", "transpose", "unsqueeze", "squeeze", "expand", "expand_as", "flatten")
)
_CARRY |= {"getitem", "chunk", "split", "contiguous", "dropout", "to", "float", "type_as", "clone", "identity", "add"}
_CARRY |= {"cat", "stack", "pad", "unflatten", "movedim", "interpolate", "mean", "sum", "avg_pool2d"}
_CARRY |= {"max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d"}
_CARRY |= {"adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}
_MOST_STEPS = 96


def role(match: Match, tape: Tape, consumers: Mapping[int, list[Op]], constants: Constants, within: set[int]) -> Role:
    """Return `activation` or `gate`.

    Args:
        match: the activation.
        tape: the run.
        consumers: the operations that read each value.
        constants: the constants of the tape.
        within: operations of the longer formulas that this activation is also a part of; what they do is theirs.
    """
    if match.source.kind == "glu":
        return "gate"
    if match.source.kind not in _SQUASHING:
        return "activation"
    outside = {value: [op for op in ops if op.index not in within] for value, ops in consumers.items()}
    consumers = outside if within else consumers
    return "activation" if _reaches_layer(match, tape, consumers, constants) else "gate"


def on_features(
    match: Match, tape: Tape, producers: Mapping[int, Op], consumers: Mapping[int, list[Op]], constants: Constants
) -> bool:
    """Whether a clamp-like operation, or a formula without a name, acts on the features of a network."""
    if not match.source.formula:
        made = _comes_from_layer(match.x, tape, producers, None)
        return made and _carried_to_layer(match.root.outs[0], consumers)
    if not _comes_from_layer(match.x, tape, producers, constants):
        return False
    same = tape.values[match.root.outs[0]].shape == tape.values[match.x].shape
    statistic = is_tame(match.source)
    return same and _reaches_layer(match, tape, consumers, constants, _REDUCTIONS if statistic else frozenset())


def _is_layer(op: Op) -> bool:
    return op.name.startswith(_LAYERS)


def _reaches_layer(
    match: Match,
    tape: Tape,
    consumers: Mapping[int, list[Op]],
    constants: Constants,
    ends: frozenset[str] = frozenset(),
) -> bool:
    """Whether a layer reads the result as features, on some way that crosses no product with another tensor."""
    queue = list(match.root.outs)
    seen = set(queue)
    for _ in range(_MOST_STEPS):
        if not queue:
            return False
        here = queue.pop(0)
        for op in consumers.get(here, ()):
            if op.name.startswith(_READERS) and _as_features(op, here, constants):
                return True
            if op.name in _ENDS or op.name in ends or op.name.startswith(_READERS):
                continue
            if op.name in _PRODUCTS and not all(
                _belongs(ref, match, constants) for ref in op.refs() if ref != here and constants.of(ref) is None
            ):
                continue
            fresh = [o for o in op.outs if o not in seen and tape.values[o].floating]
            queue += fresh
            seen.update(fresh)
    return False


def _as_features(op: Op, value: int, constants: Constants) -> bool:
    """Whether a layer takes the value as its input; softplus in a parametrization is its weight."""
    if op.name.startswith(_CONTRACTIONS + _ATTENTION):
        return True
    return all(Ref(value) != op.args.get(key) for key in ("1", "2", "weight", "bias"))


def _belongs(value: int, match: Match, constants: Constants, depth: int = 0) -> bool:
    """Whether a value is an elementwise function of what the activation reads, or of its result."""
    if value == match.x or value in match.root.outs or constants.of(value) is not None:
        return True
    op = constants.producers.get(value)
    if op is None or op.name not in ELEMENTWISE or depth > 16:
        return False
    return all(_belongs(ref, match, constants, depth + 1) for ref in op.refs())


def _carried_to_layer(value: int, consumers: Mapping[int, list[Op]]) -> bool:
    """Whether a layer reads a value, with nothing but additions, gates and reshapes on the way."""
    queue, seen = [value], {value}
    for _ in range(_MOST_STEPS):
        if not queue:
            return False
        here = queue.pop(0)
        for op in consumers.get(here, ()):
            if op.name.startswith(_READERS):
                if op.name.startswith(_CONTRACTIONS) or all(Ref(here) != op.args.get(k) for k in ("1", "2", "weight")):
                    return True
            elif op.name in _CARRY or op.name == "mul":
                fresh = [o for o in op.outs if o not in seen]
                queue += fresh
                seen.update(fresh)
    return False


def _comes_from_layer(value: int, tape: Tape, producers: Mapping[int, Op], scales: Constants | None) -> bool:
    """Whether a layer made a value, with nothing but additions and reshapes since, and scales if `scales` is given."""
    queue, seen = [value], {value}
    for _ in range(_MOST_STEPS):
        if not queue:
            return False
        op = producers.get(queue.pop(0))
        if op is None:
            continue
        if _is_layer(op) or _has_weight(op, tape):
            return True
        scaled = scales is not None and op.name in ("mul", "div", "sub", "neg") and _is_scaled(op, scales)
        if op.name in _CARRY or scaled:
            fresh = list(_varying(op, tape, seen))
            queue += fresh
            seen.update(fresh)
    return False


def _is_scaled(op: Op, constants: Constants) -> bool:
    return sum(constants.of(ref) is None for ref in op.refs()) == 1


def _has_weight(op: Op, tape: Tape) -> bool:
    """Whether a product of matrices is a layer: one side is a parameter of the model."""
    return op.name in ("matmul", "mm") and any(tape.values[ref].name for ref in op.refs())


def _varying(op: Op, tape: Tape, seen: set[int]) -> Iterator[int]:
    return (ref for ref in op.refs() if ref not in seen and tape.values[ref].constant is None)
