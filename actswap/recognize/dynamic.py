"""Activations that are a module with layers of its own: meta-ACON and DY-ReLU as other projects write them.

Such a module reads one tensor, pools it, computes coefficients from that with a few layers, and applies to the tensor:

    meta_acon    (p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x, beta a function of the pooled x
    dy_relu_a    the maximum of lines a_k x + b_k, one set for a sample
    dy_relu_b    the same, one set for each channel of a sample

No formula of x alone computes it, so that its source is the module itself: a morph keeps it until t = 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from actswap.capture.tape import Call, Op, Tape
from actswap.recognize.identify import identify
from actswap.recognize.matches import Match, find
from actswap.recognize.reading import ELEMENTWISE, PASS, Constants, Leaf, Reader
from actswap.sites import Source

MODULES = ("meta_acon", "dy_relu_a", "dy_relu_b")
_POOLS = ("mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool2d")
_LAYERS = ("linear", "conv1d", "conv2d", "conv3d")
_MOVES = PASS | {"permute", "transpose", "t", "unsqueeze", "squeeze", "view", "reshape", "getitem", "movedim", "expand"}
_MAXIMA = ("maximum", "amax")
_FEW = 60  # operations in such a module


def activations_of(tape: Tape, constants: Constants) -> list[Match]:
    """Return all activations of a run in the order of their results; those of this file hide what is inside them."""
    modules = list(_modules(tape, constants))
    if not modules:
        return find(tape.ops, tape.values, tape.outputs)
    hidden = {op.index for match in modules for op in match.ops}
    others = [m for m in find(tape.ops, tape.values, tape.outputs) if m.root.index not in hidden]
    return sorted([*others, *modules], key=lambda m: m.root.index)


def _modules(tape: Tape, constants: Constants) -> Iterator[Match]:
    for call in tape.calls:
        ops = tape.ops[slice(*call.ops)]
        if call.parent < 0 or call.name is None or not 6 <= len(ops) <= _FEW:
            continue
        names = {op.name for op in ops}
        if not names & set(_POOLS) or not names & set(_LAYERS):
            continue
        inputs = [v for v in call.inputs if constants.of(v) is None]
        if len(inputs) == 1 and len(call.outputs) == 1 and call.outputs[0] in constants.producers:
            kind = _kind(call, inputs[0], tape, constants)
            if kind is not None:
                yield Match(Source(kind), inputs[0], constants.producers[call.outputs[0]], tuple(ops))


def _kind(call: Call, x: int, tape: Tape, constants: Constants) -> str | None:
    y = call.outputs[0]
    if tape.values[x].shape != tape.values[y].shape or not tape.values[x].shape:
        return None
    root = constants.producers[y]
    if not call.ops[0] <= root.index < call.ops[1]:
        return None
    return "meta_acon" if _is_meta_acon(root, x, tape, constants) else _dy_relu(root, x, tape, constants)


def _is_meta_acon(root: Op, x: int, tape: Tape, constants: Constants) -> bool:
    shape = tape.values[x].shape
    betas = [v for v in _operands(root, constants) if tape.values[v].shape != shape and constants.of(v) is None]
    if len(set(betas)) != 1:
        return False
    sizes = tape.values[betas[0]].shape
    if len(sizes) != len(shape) or any(n not in (1, full) for n, full in zip(sizes, shape, strict=True)):
        return False
    sizes = (1, *sizes[1:])  # each sample has its own: one of them stands for all
    some = Leaf(torch.linspace(0.6, 1.4, math.prod(sizes)).reshape(sizes), ("beta",), sizes)
    reading = Reader(x, _With(constants, {betas[0]: some})).read(root)
    if reading is None:
        return False
    source = identify(reading.expression, [f.tensor for f in reading.leaves], [bool(f.names) for f in reading.leaves])
    return source is not None and source.kind in ("acon_c", "swish")


class _With(Constants):
    """Constants, and values that are taken for constants."""

    def __init__(self, constants: Constants, given: Mapping[int, Leaf]) -> None:
        super().__init__({v: op for v, op in constants.producers.items() if v not in given}, constants.values)
        self._known.update(given)


def _operands(root: Op, constants: Constants) -> list[int]:
    """What an elementwise formula is made of: values of other shapes end it."""
    shape = constants.values[root.outs[0]].shape
    found: list[int] = []
    queue = [root]
    for _ in range(_FEW):
        if not queue:
            break
        for ref in queue.pop().refs():
            made = constants.producers.get(ref)
            if constants.values[ref].shape == shape and made is not None and made.name in ELEMENTWISE:
                queue.append(made)
            else:
                found.append(ref)
    return found


def _dy_relu(root: Op, x: int, tape: Tape, constants: Constants) -> str | None:
    """The maximum of lines whose coefficients are neither x nor constant."""
    top = root
    while top.name in _MOVES:
        refs = [r for r in top.refs() if constants.of(r) is None]
        if len(refs) != 1 or refs[0] not in constants.producers:
            return None
        top = constants.producers[refs[0]]
    if top.name not in _MAXIMA:
        return None
    lines = [constants.producers.get(r) for r in top.refs()]
    if not lines or any(line is None or line.name != "add" for line in lines):
        return None
    coefficients: set[int] = set()
    for line in (line for line in lines if line is not None):
        scaled = [constants.producers.get(r) for r in line.refs()]
        product = next((op for op in scaled if op is not None and op.name == "mul"), None)
        if product is None or not any(_is_moved(r, x, constants) for r in product.refs()):
            return None
        coefficients |= {r for r in product.refs() if not _is_moved(r, x, constants)}
    if not coefficients or any(constants.of(c) is not None for c in coefficients):
        return None
    samples, channels = tape.values[x].shape[0], tape.values[x].shape[1]
    numbers = max(math.prod(tape.values[c].shape) for c in coefficients) // max(samples, 1)
    return "dy_relu_b" if numbers >= channels > 1 else "dy_relu_a"


def _is_moved(value: int, x: int, constants: Constants) -> bool:
    """Whether a value is x with its axes moved."""
    for _ in range(8):
        if value == x:
            return True
        op = constants.producers.get(value)
        if op is None or op.name not in _MOVES:
            return False
        value = next(op.refs())
    return False
