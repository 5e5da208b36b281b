"""Recognise the static activations of an ONNX graph: single nodes, and formulas of several nodes.

The nodes between a value x and a value y that depend on nothing else are read as an expression, the same as operations
of PyTorch are. `recognize.identify` says which function of the one table it is: what counts is what they compute, not
how they are written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from actswap.activations import formula
from actswap.activations.formula import Expr, X
from actswap.onnx.functions import Array
from actswap.onnx.model_file import graphs_of, names_in
from actswap.recognize.identify import identify
from actswap.sites import Source

_Attributes = Mapping[str, float]
_UNARY = {
    "Abs": "abs",
    "Asinh": "asinh",
    "Atan": "atan",
    "Cos": "cos",
    "Erf": "erf",
    "Exp": "exp",
    "Log": "log",
    "Neg": "neg",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "sqrt",
    "Tanh": "tanh",
}
_BINARY = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "Pow": "pow",
    "Max": "maximum",
    "Min": "minimum",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "Less": "lt",
    "LessOrEqual": "le",
    "Equal": "eq",
}
_WITH_ATTRIBUTES: Mapping[str, Callable[[Expr, _Attributes], Expr]] = {
    "HardSigmoid": lambda a, k: (
        "clamp",
        ("add", ("mul", k.get("alpha", 0.2), a), k.get("beta", 0.5)),
        0.0,
        1.0,
    ),
    "Elu": lambda a, k: ("elu", a, k.get("alpha", 1.0)),
    "Celu": lambda a, k: ("celu", a, k.get("alpha", 1.0)),
    "LeakyRelu": lambda a, k: ("leaky_relu", a, k.get("alpha", 0.01)),
    "Selu": lambda a, k: ("selu", a),
    "Mish": lambda a, k: ("mish", a),
    "HardSwish": lambda a, k: ("hardswish", a),
}
_STANDARD = ("", "ai.onnx")
# Operators of ONNX Runtime's own domain; those with a bias were split before (model_file.split_biases).
_OF_THE_RUNTIME: Mapping[str, Callable[[_Attributes], Expr]] = {
    "Gelu": lambda k: ("gelu", X),
    "FastGelu": lambda k: ("gelu_tanh", X),
    "QuickGelu": lambda k: ("mul", X, ("sigmoid", ("mul", k.get("alpha", 1.702), X))),
}
_PASS = ("Identity", "Cast")
_ELEMENTWISE = frozenset((*_UNARY, *_BINARY, *_WITH_ATTRIBUTES, *_PASS, "Clip", "Where"))
# A formula is looked for around these: the others stand in any arithmetic.
_ANCHORS = (
    "Erf",
    "Tanh",
    "Sigmoid",
    "HardSigmoid",
    "Clip",
    "Exp",
    "Softplus",
    "Sin",
    "Cos",
    "Atan",
    "Asinh",
    "Where",
    "Relu",
)
_GATES = ("sigmoid", "hardsigmoid", "tanh", "softplus", "softsign", "logsigmoid")  # by themselves they may be gates
_CAPS = ("hardtanh", "threshold")  # over a ReLU they guard against large numbers: the ReLU is the site
_DEPTH = 8


@dataclass(frozen=True)
class GraphSite:
    """One activation in a graph: the source, the values before and after it, and its nodes by position."""

    name: str
    source: Source
    x: str
    y: str
    nodes: tuple[int, ...]


def find_sites(model: onnx.ModelProto) -> tuple[list[GraphSite], dict[str, str]]:
    """Find the activations of the main graph; those in the bodies of If, Loop and Scan are left, with their names.

    Returns:
        The sites in the order of the graph, and what was left, by name, with the reason.
    """
    view = _View(model.graph, model)
    found, left = _sites(view)
    return found, left | _in_bodies(model, model.graph, view.constants)


def _in_bodies(model: onnx.ModelProto, graph: onnx.GraphProto, known: Mapping[str, Array]) -> dict[str, str]:
    """Name the activations in the graphs that are attributes of nodes."""
    left: dict[str, str] = {}
    for node in graph.node:
        for inner in graphs_of(node):
            view = _View(inner, model, known)
            sites, others = _sites(view)
            reason = f"it stands in the body of {node.op_type} {node.name or node.output[0]}, which may run or not"
            left.update({site.name: f"{reason}: {site.source} is kept" for site in sites} | others)
            left.update(_in_bodies(model, inner, view.constants))
    return left


def _sites(view: _View) -> tuple[list[GraphSite], dict[str, str]]:
    found: list[GraphSite] = []
    left: dict[str, str] = {}
    taken: set[int] = set()
    for k, node in enumerate(view.nodes):
        if node.op_type in _ANCHORS and k not in taken:
            site = _formula(view, k)
            if site is not None and not taken & set(site.nodes):
                found.append(site)
                taken.update(site.nodes)
    for k, node in enumerate(view.nodes):
        if k in taken:
            continue
        name = node.name or node.output[0]
        source = _single(view, node)
        if source is not None and node.op_type == "Clip" and _gates(view, node.output[0]):
            left[name] = "a gate: its result multiplies something else"
        elif source is not None:
            found.append(GraphSite(name, source, node.input[0], node.output[0], (k,)))
        elif node.op_type in ("Sigmoid", "HardSigmoid"):
            left[name] = "a gate, or an output"
        elif node.op_type in ("PRelu", "Clip"):
            left[name] = "its constants are not in the file, or it is no activation"
    return sorted(found, key=lambda site: site.nodes[-1]), left


class _View:
    """The graph with what is looked up again and again."""

    def __init__(
        self, graph: onnx.GraphProto, model: onnx.ModelProto, known: Mapping[str, Array] | None = None
    ) -> None:
        self.nodes = list(graph.node)
        self.constants: dict[str, Array] = dict(known or {})
        # Weights that lie beside a large file are no constants of an activation.
        self.constants.update({t.name: numpy_helper.to_array(t) for t in graph.initializer if not t.external_data})
        self.producer: dict[str, int] = {}
        self.consumers: Mapping[str, list[int]] = defaultdict(list)
        for k, node in enumerate(self.nodes):
            for name in node.output:
                self.producer[name] = k
            captured = {name for inner in graphs_of(node) for name in names_in(inner)}
            for name in dict.fromkeys((*node.input, *captured)):
                self.consumers[name].append(k)
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self.constants[node.output[0]] = numpy_helper.to_array(attribute.t)
                    elif attribute.name == "value_float":
                        self.constants[node.output[0]] = np.asarray(attribute.f, np.float32)
                    elif attribute.name == "value_int":
                        self.constants[node.output[0]] = np.asarray(attribute.i)
        self.outputs = {value.name for value in graph.output}
        self.opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 1)

    def variable(self, node: NodeProto) -> list[str]:
        """Inputs of the node that are not constant."""
        return [name for name in node.input if name and name not in self.constants]

    def elementwise(self, node: NodeProto) -> bool:
        """Whether the node works value by value, with single constants."""
        constants = (self.constants[name] for name in node.input if name in self.constants)
        return node.domain in _STANDARD and node.op_type in _ELEMENTWISE and all(c.size == 1 for c in constants)


def _single(view: _View, node: NodeProto) -> Source | None:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.domain == "com.microsoft" and node.op_type in _OF_THE_RUNTIME:
        return identify(_OF_THE_RUNTIME[node.op_type](_numbers(node)))
    if node.domain not in _STANDARD:
        return None
    if node.op_type == "Relu":
        return Source("relu")
    if node.op_type in _WITH_ATTRIBUTES and node.op_type != "HardSigmoid":
        return identify(_WITH_ATTRIBUTES[node.op_type](X, _numbers(node)))
    if node.op_type == "Gelu":
        return Source("gelu_tanh" if attributes.get("approximate") == b"tanh" else "gelu")
    if node.op_type == "PRelu" and node.input[1] in view.constants:
        slope = view.constants[node.input[1]]
        if slope.size == 1:
            return Source.of("leaky_relu", slope=float(slope.reshape(())))
        if slope.ndim and slope.size == slope.shape[0]:  # (C, 1, 1): channels on axis 1
            return Source.of("prelu", slope=tuple(float(v) for v in slope.reshape(-1)))
        return None
    if node.op_type == "Clip":
        bounds: list[float] = [attributes.get("min", -np.inf), attributes.get("max", np.inf)]
        for k, name in enumerate(node.input[1:3]):
            if name and (name not in view.constants or not np.issubdtype(view.constants[name].dtype, np.floating)):
                return None
            if name:
                bounds[k] = float(view.constants[name].reshape(()))
        low, high = bounds
        if not np.isfinite(low) or high <= low:
            return None
        if not np.isfinite(high) or high > 1e30:
            return Source("relu") if low == 0 else None
        return Source("relu6") if (low, high) == (0, 6) else Source.of("hardtanh", low=float(low), high=float(high))
    return None


def _gates(view: _View, value: str) -> bool:
    """Whether the value, after constant factors and shifts, multiplies something that is not constant."""
    for k in view.consumers[value]:
        node = view.nodes[k]
        if node.op_type == "Mul" and len(view.variable(node)) == 2:
            return True
        if node.op_type in ("Mul", "Div", "Add", "Sub") and view.elementwise(node) and _gates(view, node.output[0]):
            return True
    return False


def _formula(view: _View, anchor: int) -> GraphSite | None:
    for x in _before(view, anchor):
        cone = _cone(view, x)
        for y in reversed(cone):
            nodes = _between(view, x, y)
            if len(nodes) < 2 or anchor not in nodes or _leaks(view, nodes, y):
                continue
            expression = _read(view, view.nodes[y].output[0], x)
            if expression is None or formula.degree(expression) <= 1:
                continue
            source = identify(expression)
            if source is not None and source.kind not in (*_GATES, *_CAPS):
                last = view.nodes[y]
                return GraphSite(last.name or last.output[0], source, x, last.output[0], tuple(sorted(nodes)))
    return None


def _before(view: _View, anchor: int) -> list[str]:
    """Values that the anchor is computed from, element by element, nearest first."""
    found: list[str] = []
    border = view.variable(view.nodes[anchor])
    for _ in range(_DEPTH):
        following: list[str] = []
        for name in border:
            if name not in found:
                found.append(name)
                producer = view.producer.get(name)
                if producer is not None and view.elementwise(view.nodes[producer]):
                    following += view.variable(view.nodes[producer])
        border = following
    return found


def _cone(view: _View, x: str) -> list[int]:
    """Nodes that depend on x and constants only, element by element, in the order of the graph."""
    known, cone, border = {x}, set[int](), [x]
    for _ in range(2 * _DEPTH):
        following = []
        for name in border:
            for k in view.consumers[name]:
                node = view.nodes[k]
                if k not in cone and view.elementwise(node) and set(view.variable(node)) <= known:
                    cone.add(k)
                    known.add(node.output[0])
                    following.append(node.output[0])
        border = following + [n for n in border if following]
    return sorted(cone)


def _between(view: _View, x: str, y: int) -> set[int]:
    """Nodes on the ways from x to y."""
    found, border = {y}, [y]
    while border:
        for name in view.variable(view.nodes[border.pop()]):
            producer = view.producer.get(name)
            if name != x and producer is not None and producer not in found:
                found.add(producer)
                border.append(producer)
    return found


def _leaks(view: _View, nodes: set[int], y: int) -> bool:
    """Whether a value inside is used outside."""
    inside = [view.nodes[k].output[0] for k in nodes if k != y]
    return any(name in view.outputs or set(view.consumers[name]) - nodes for name in inside)


def _read(view: _View, value: str, x: str) -> Expr | None:
    """Read a value as an expression in x; constants are single numbers."""
    if value == x:
        return X
    if value in view.constants:
        constant = view.constants[value]
        return float(constant.reshape(())) if constant.size == 1 else None
    node = view.nodes[view.producer[value]]
    kind = node.op_type
    if kind == "Clip":
        bounds = [_read(view, name, x) if name else None for name in node.input[1:3]]
        attributes = _numbers(node)
        low = bounds[0] if bounds and bounds[0] is not None else attributes.get("min", -np.inf)
        high = bounds[1] if len(bounds) > 1 and bounds[1] is not None else attributes.get("max", np.inf)
        inner = _read(view, node.input[0], x)
        return (
            None if inner is None or isinstance(low, tuple) or isinstance(high, tuple) else ("clamp", inner, low, high)
        )
    parts = [_read(view, name, x) for name in node.input]
    if any(part is None for part in parts):
        return None
    if kind in _PASS:
        return parts[0]
    if kind == "Where":
        return ("where", *parts)
    if kind in _WITH_ATTRIBUTES and parts[0] is not None:
        return _WITH_ATTRIBUTES[kind](parts[0], _numbers(node))
    if kind in _UNARY:
        return (_UNARY[kind], *parts)
    return (_BINARY[kind], *parts) if len(parts) == 2 else None


def _numbers(node: NodeProto) -> dict[str, float]:
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: float(v) for name, v in values.items() if isinstance(v, (int, float))}
