"""Find activations in a list of operations, whether from a tape or from an fx graph.

1. A call of a function that torch has (`relu`, `gelu`, ...) is an activation.
2. A formula that computes a known function (`x * sigmoid(x)`) is one; the larger one wins.
3. What is left (`chains`): elementwise functions of one tensor that no row of `PLAIN` names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from actswap.activations import formula
from actswap.activations.formula import FUNCTIONS, Expr
from actswap.activations.plain import PLAIN
from actswap.capture.tape import Op, Ref, Value, producers_of
from actswap.recognize.identify import identify, is_rational
from actswap.recognize.reading import (
    ELEMENTWISE,
    PASS,
    Constants,
    Leaf,
    Reader,
    Reading,
    common_axis,
    constants_of,
    mean_slope,
)
from actswap.sites import Number, Source

_STEPS = 12  # operations between a formula's input and its result, along one way
_CANDIDATES = 40
_CUTS = frozenset(("clamp", "hardtanh", "maximum", "minimum", "fmax", "fmin"))
_CLIPS = _CUTS | {"relu"}
_WHOLE = frozenset(("silu", "gelu", "mish", "hardswish"))  # calls of these are no part of another of them
_DIRECT = (frozenset(PLAIN) & frozenset(FUNCTIONS)) | {"gelu", "rrelu", "prelu", "glu", "hardtanh"}
_ROOTS = ELEMENTWISE - PASS
_ASKS = frozenset(("size", "dim", "getattr", "shape", "ndim", "numel"))  # they read no value
_TAME = frozenset(("add", "sub", "mul", "div", "neg", "pow", "square", "sqrt", "rsqrt", "reciprocal", "abs", "sign"))
_TAME |= {"clamp", "log", "log2", "log10", "log1p", "minimum", "maximum"}


@dataclass(frozen=True)
class Match:
    """An activation: what it is, the value it reads, the operation that returns its result, and all it is made of.

    Attributes:
        source: kind and constants; its `trained` names the parameters and buffers of the model among them.
        x: number of the value it is a function of.
        root: the operation that returns its result.
        ops: all operations of it, `root` among them.
        axis: the axis of x that its constants differ along, None if they do not.
        holds: it is a formula in which known activations meet; none of them is one by itself.
    """

    source: Source
    x: int
    root: Op
    ops: tuple[Op, ...]
    axis: int | None = None
    holds: bool = False

    @property
    def is_formula(self) -> bool:
        """True if it is spelled out in more than one operation."""
        return len(self.ops) > 1


def find(
    ops: Sequence[Op],
    values: Mapping[int, Value],
    returned: Sequence[int] = (),
    chains: bool = True,
    activated: Collection[int] = (),
) -> list[Match]:
    """Return all activations among `ops`, in the order of their results.

    A part of a formula that something else reads too is looked at on its own: in `s = sigmoid(x); x * s + s` there is
    a SiLU, and a sigmoid.

    Args:
        ops: operations in order.
        values: the values they read and make.
        returned: the values that are results of it all.
        chains: whether to look for formulas that compute no known function, too.
        activated: values that are results of activations elsewhere.
    """
    finder = _Finder(ops, values, returned)
    found = finder.known()
    return finder.chains(found, activated) if chains else found


def single_calls(ops: Sequence[Op], values: Mapping[int, Value]) -> list[Match]:
    """Return every call of a function that torch has, also those that are a part of a longer formula."""
    finder = _Finder(ops, values, ())
    return [match for op in ops if op.outs and (match := finder.single(op)) is not None]


class _Finder:
    """The operations with what is looked up again and again."""

    def __init__(self, ops: Sequence[Op], values: Mapping[int, Value], returned: Sequence[int]) -> None:
        self.ops, self.values = ops, values
        self.producers = producers_of(ops)
        self.constants = Constants(self.producers, values)
        self.readers: dict[int, set[int]] = {out: {-1} for out in returned}
        for op in ops:
            if op.name not in _ASKS:
                for ref in op.refs():
                    self.readers.setdefault(ref, set()).add(op.index)

    def known(self) -> list[Match]:
        """Find known functions, from the last operation to the first."""
        consumed: set[int] = set()
        found: list[Match] = []
        for op in reversed(self.ops):
            if op.index in consumed or not op.outs:
                continue
            match = self.single(op) or self._formula(op)
            if match is not None:
                found.append(match)
                consumed |= self._inside(match)
        return [m for m in found[::-1] if not self._adds_nothing(m, found)]

    def _adds_nothing(self, match: Match, found: Sequence[Match]) -> bool:
        """True for the abs(h) in `h = relu(x)`, `h.abs().mean()`: what follows h leaves it as it is."""
        inside = {o.index for o in match.ops if o is not match.root}
        return any(m.root.index in inside and (m.x, m.source) == (match.x, match.source) for m in found)

    def _inside(self, match: Match) -> set[int]:
        """The operations of a match that nothing else reads."""
        inside = {o.index for o in match.ops}
        parts = (o for o in match.ops if all(self.readers.get(out, set()) <= inside for out in o.outs))
        return {match.root.index, *(o.index for o in parts)}

    # One operation

    def single(self, op: Op) -> Match | None:
        """Return a call of a function that torch has."""
        x = op.args.get("input")
        if op.name.startswith("actswap."):
            return Match(Source(op.name), x.id, op, (op,)) if isinstance(x, Ref) else None
        if op.name not in _DIRECT or not isinstance(x, Ref) or not self.values[x.id].floating:
            return None
        found = self._direct(op)
        return None if found is None else Match(found[0], x.id, op, (op,), found[1])

    def _direct(self, op: Op) -> tuple[Source, int | None] | None:
        """The source of a call of torch's own function, and the axis of its constants."""
        name, arg = op.name, op.args.get
        if name == "glu":
            return Source("glu"), None
        if name == "gelu":
            return Source("gelu_tanh" if arg("approximate") == "tanh" else "gelu"), None
        if name == "rrelu":
            return Source.of("leaky_relu", slope=mean_slope(op)), None
        if name == "prelu":
            weight = arg("weight")
            leaf = self.constants.of(weight.id) if isinstance(weight, Ref) else None
            return None if leaf is None else _prelu(leaf)
        if name == "hardtanh" or name == "identity":
            return None  # its bounds may be tensors: it is read as a formula
        constants = constants_of(op)
        if constants is None:
            return None
        if name == "threshold" and not any(constants.values()):
            return Source("relu"), None
        return Source.of(name, **constants), None

    def _is_constant(self, value: int) -> bool:
        return self.constants.of(value) is not None

    # A formula of a known function

    def _formula(self, op: Op) -> Match | None:
        if op.name not in _ROOTS or _ends_before(op) or not self.values[op.outs[0]].floating:
            return None
        cut: Match | None = None
        for x in self._candidates(op):
            reading = Reader(x, self.constants).read(op)
            if reading is None or formula.degree(reading.expression) <= 1:
                continue
            match = self._named(reading, x, op)
            if match is not None and (len(match.ops) > 1 or op.name not in _CUTS):
                return cut if cut is not None and cut.source == match.source else match  # relu6(1.0 * x) is relu6
            cut = cut or match  # it may be the outer part of a longer formula: clamp(x / 6 + 0.5, 0, 1)
        return cut

    def _candidates(self, op: Op) -> list[int]:
        """Values that the formula ending in `op` may be a function of, nearest first."""
        seen: dict[int, None] = {}
        layer = [op]
        for _ in range(_STEPS):
            refs = [r for o in layer for r in o.refs() if r not in seen and not self._is_constant(r)]
            seen.update(dict.fromkeys(refs))
            layer = [self.producers[r] for r in refs if r in self.producers and self.producers[r].name in ELEMENTWISE]
            if not layer or len(seen) > _CANDIDATES:
                break
        return [v for v in seen if self.values[v].floating]

    def _named(self, reading: Reading, x: int, op: Op) -> Match | None:
        axis = self._axis(reading.leaves, x)
        if axis is None:
            return None
        leaves = reading.leaves
        source = identify(reading.expression, [f.tensor for f in leaves], [bool(f.names) for f in leaves])
        if source is None:
            return None
        if source.kind == "hardtanh" and op.name in _CUTS and any(o.name == "relu" for o in reading.ops):
            return None  # a guard against large numbers: the ReLU is the activation, and the guard stays
        if source.kind in ("relu", "relu6", "hardtanh") and self._clipped_twice(reading.ops):
            return None
        if source.kind in (*_WHOLE, "swish") and any(o.name in _WHOLE for o in reading.ops if o is not op):
            return None  # silu(x + x) * self.half is a SiLU, and what is around it stays
        return Match(_with_names(source, leaves), x, op, reading.ops, axis[0])

    def _clipped_twice(self, ops: Sequence[Op]) -> bool:
        """True for relu(relu6(x) - 0.1): two activations in a row that happen to compute one; clip of a clip is one."""
        below: set[int] = set()  # values that a shifted or scaled clip has gone into
        clipped: set[int] = set()
        for op in ops:
            refs = set(op.refs())
            if op.name in _CLIPS:
                if refs & below:
                    return True
                clipped |= set(op.outs)
            elif op.name in ("add", "sub", "mul", "div") and refs & (clipped | below):
                below |= set(op.outs)
        return False

    def _axis(self, leaves: Sequence[Leaf], x: int) -> tuple[int | None, int] | None:
        rank = len(self.values[x].shape)
        if not rank:  # a graph tells no shapes: the tape has checked them
            return None, 1
        return common_axis(leaves, rank)

    # A chain that computes no known function

    def chains(self, found: list[Match], activated: Collection[int]) -> list[Match]:
        """Add the formulas that no row names; known activations that meet in one are no sites of their own."""
        results = {out for m in found for out in m.root.outs} | set(activated)
        consumed = {i for m in found for i in self._inside(m)}
        for op in reversed(self.ops):
            if op.index in consumed or op.name not in ELEMENTWISE or not op.outs or _is_linear(op, self.constants):
                continue
            if not self.values[op.outs[0]].floating:
                continue
            chain = self._chain(op, found, results)
            if chain is not None:
                inside = {o.index for o in chain.ops}
                found = [m for m in found if m.root.index not in inside]
                found.append(chain)
                consumed |= self._inside(chain)
        return sorted(found, key=lambda m: m.root.index)

    def _chain(self, op: Op, found: Sequence[Match], results: Collection[int]) -> Match | None:
        """The longest formula that ends in `op`, trimmed to where it is not linear."""
        best: tuple[Reading, int] | None = None
        for x in self._candidates(op):
            reading = Reader(x, self.constants).read(op)
            if reading is None or (best is not None and len(reading.ops) <= len(best[0].ops)):
                continue
            if self._leaks(reading, op):
                continue
            if self._splits(op, x, reading, found):
                break
            best = reading, x
        if best is None:
            return None
        reading, x = self._trimmed(op, *best)
        if formula.degree(reading.expression) <= 1 or x in results or not _bends(reading.expression):
            return None
        axis = self._axis(reading.leaves, x)
        if axis is None:
            return None
        inside = {o.index for o in reading.ops}
        holds = any(m.root.index in inside for m in found)
        return Match(_formula_source(reading), x, op, reading.ops, axis[0], holds)

    def _leaks(self, reading: Reading, root: Op) -> bool:
        """Whether something outside reads a value inside."""
        inside = {o.index for o in reading.ops}
        within = (o for o in reading.ops if o is not root)
        return any(self.readers.get(out, set()) - inside for o in within for out in o.outs)

    def _splits(self, op: Op, x: int, reading: Reading, found: Sequence[Match]) -> bool:
        """Whether the known activations inside stay sites: all else is made of their results, or is added to them."""
        inside = {o.index for o in reading.ops}
        known = [m for m in found if m.root.index in inside]
        if not known:
            return False
        marks = {out: k for k, m in enumerate(known) for out in m.root.outs}
        outer = Reader(x, self.constants, marks).read(op)
        if outer is None:
            return True
        return not _reads_x(outer.expression) or formula.degree(outer.expression) <= 1

    def _trimmed(self, op: Op, reading: Reading, x: int) -> tuple[Reading, int]:
        """Leave out what is linear in front of the formula: it stays in the graph, with its parameters."""
        while True:
            inside = [o for o in reading.ops if Ref(x) in o.args.values() or x in o.refs()]
            if len(inside) != 1 or inside[0] is op or not _is_linear(inside[0], self.constants):
                return reading, x
            following = Reader(inside[0].outs[0], self.constants).read(op)
            if following is None or not self.values[inside[0].outs[0]].floating:
                return reading, x
            reading, x = following, inside[0].outs[0]


def _ends_before(op: Op) -> bool:
    """A multiplication by one or an addition of zero: the formula ends before it."""
    left, right = op.args.get("input"), op.args.get("other")
    one, zero = (1, 1.0), (0, 0.0)
    if op.name in ("mul", "add"):
        return any(side in (one if op.name == "mul" else zero) for side in (left, right))
    return (op.name == "div" and right in one) or (op.name == "sub" and right in zero)


def _is_linear(op: Op, constants: Constants) -> bool:
    """Whether the operation scales and shifts one value by constants, or only changes its type."""
    refs = [r for r in op.refs() if constants.of(r) is None]
    if len(refs) != 1:
        return False
    reading = Reader(refs[0], constants).read(op)
    return reading is not None and formula.degree(reading.expression) <= 1


def _reads_x(e: Expr) -> bool:
    return isinstance(e, tuple) and (e[0] == "x" or (e[0] not in ("p", "m") and any(_reads_x(a) for a in e[1:])))


def _bends(e: Expr) -> bool:
    """False for what is linear but for cuts by constants: they limit numbers and shape nothing."""
    return formula.degree(_uncut(e)) > 1 or formula.parameters(e) > 0


def _uncut(e: Expr) -> Expr:
    if not isinstance(e, tuple) or e[0] in ("x", "p"):
        return e
    args = tuple(_uncut(a) for a in e[1:])
    if e[0] == "clamp" or (e[0] in ("minimum", "maximum") and 0 in (formula.degree(a) for a in args)):
        return max(args, key=formula.degree)
    return (e[0], *args)


def is_tame(source: Source) -> bool:
    """True for a formula of powers, roots, absolute values and logarithms: it may be part of a statistic, too."""
    return bool(source.formula) and formula.names(formula.parse(source.formula)) <= _TAME


def _prelu(leaf: Leaf) -> tuple[Source, int | None]:
    trained = tuple(("slope", n) for n in leaf.names)
    if leaf.tensor.is_meta:
        return Source("prelu", trained=trained), None
    flat = leaf.tensor.detach().double().flatten().tolist()
    slope: Number = flat[0] if len(flat) == 1 else tuple(flat)
    return replace(Source.of("prelu", slope=slope), trained=trained), 1 if len(flat) > 1 else None


def _with_names(source: Source, leaves: Sequence[Leaf]) -> Source:
    """Note which constants are trained; the constant that equals a tensor is that tensor."""
    named = [leaf for leaf in leaves if leaf.names]
    if not named:
        return source
    trained: list[tuple[str, str]] = []
    for constant, value in source.params:
        for leaf in named:
            numbers = tuple(leaf.tensor.detach().double().flatten().tolist())
            if len(source.params) == 1 or numbers == (value if isinstance(value, tuple) else (value,)):
                trained += [(constant, name) for name in leaf.names]
    return replace(source, trained=tuple(dict.fromkeys(trained)))


def _formula_source(reading: Reading) -> Source:
    """A formula with its constant tensors as p0, p1, ..."""
    params: dict[str, Number] = {}
    trained: list[tuple[str, str]] = []
    for k, leaf in enumerate(reading.leaves):
        flat = leaf.tensor.detach().double().flatten().tolist()
        params[f"p{k}"] = flat[0] if len(flat) == 1 else tuple(flat)
        trained += [(f"p{k}", name) for name in leaf.names]
    kind = "pau" if len(trained) > 3 and is_rational(reading.expression) else "formula"
    made = Source.of(kind, **params)
    return replace(made, formula=formula.show(reading.expression), trained=tuple(trained))
