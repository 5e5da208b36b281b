"""The fx graph of one module's forward, with its children as leaves: an island.

The forward is traced with exactly the arguments that were observed. Tensors (and numbers) become placeholders; every
other argument is bound to its observed value. The forward is traced in train mode and in eval mode, so that
`self.training` is not frozen. A forward that draws random numbers is refused: the trace would repeat one draw for
ever. A forward that sets an attribute of its module is refused: the trace would not set it. The new forward is a method
of a subclass made for the module, so `isinstance` still holds.
"""

from __future__ import annotations

import copy
import linecache
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from actswap.capture.arguments import Arguments, Marker, Signature
from actswap.capture.canonical import canonical
from actswap.capture.evaluating import modes_kept
from actswap.capture.installed import uninstall_methods
from actswap.capture.losses import refusing_losses
from actswap.capture.methods import instance_forward
from actswap.capture.own_trace import ThreadTracer, in_mode, kept_calls
from actswap.capture.randomness import random_kept
from actswap.capture.same_signature import same_signature
from actswap.capture.state import State
from actswap.capture.tape import Op, Ref, Value
from actswap.errors import CaptureError, first_line

_CONSTANT = "_actswap_constant"


class _Weight(fx.Proxy):
    """A parameter or buffer: its shape is a constant of the module, its values are not."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, tensor: Tensor) -> None:
        super().__init__(node, tracer)
        self.shape, self.ndim = tensor.shape, tensor.ndim
        self.size, self.dim = tensor.size, tensor.dim
        self.numel = self.nelement = tensor.numel

    def __len__(self) -> int:
        return len(self.shape) and self.shape[0]


class IslandTracer(ThreadTracer):
    """Trace one module. Its children are leaves; modules that are not registered are traced through."""

    # A buffer is read when the graph runs, and what the forward writes to it is part of the graph.
    proxy_buffer_attributes = True

    def __init__(self, arguments: Arguments, inline: frozenset[str], passed: list[Any]) -> None:
        super().__init__()
        self.arguments, self.inline, self.passed = arguments, inline, passed
        self._registered: set[int] = set()
        self._tensors: dict[str, Tensor] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return True for a registered child, unless it is part of a formula of the owner."""
        return module_qualified_name not in self.inline

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Proxy:
        """Give the proxies of parameters and buffers their shape, which a forward may read."""
        if kind == "get_attr":
            if not self._tensors:  # by name: reading the attribute would make another proxy
                self._tensors = {**dict(self.root.named_parameters()), **dict(self.root.named_buffers())}
            tensor = self._tensors[target]
            more["proxy_factory_fn"] = lambda node: _Weight(node, self, tensor)
        return super().create_proxy(kind, target, args, kwargs, *rest, **more)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace through modules that are not registered below the root."""
        if not self._registered:
            self._registered = {id(c) for c in self.root.modules()}
        if id(m) not in self._registered:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Make placeholders for the free leaves; the others keep their observed values."""
        leaves: list[Any] = []
        for want in self.arguments.leaves:
            if isinstance(want, Marker):
                leaves.append(self.create_proxy("placeholder", f"arg{len(leaves)}", (), {}))
            else:
                leaves.append(want)
        args, kwargs = tree_unflatten(leaves, self.arguments.spec)
        self.passed.append((args, kwargs))

        def bound(root: nn.Module) -> Any:
            return root_fn(root, *args, **kwargs)

        return bound, [self.root]


@dataclass(frozen=True)
class Graph:
    """A graph, and the tensors that do not depend on the input, by the name of their `get_attr` node."""

    graph: fx.Graph
    constants: dict[str, Tensor]

    def copy(self) -> Graph:
        """Return a copy whose nodes may be changed."""
        return Graph(copy.deepcopy(self.graph), self.constants)


@dataclass(frozen=True)
class Traced:
    """A forward in both modes; `train` is None if the forward never reads `training`."""

    evaluate: Graph
    train: Graph | None


def trace(module: nn.Module, arguments: Arguments, inline: frozenset[str], strict: bool = True) -> Traced:
    """Trace a module's forward in both modes; the module is left as it was.

    Args:
        module: the module.
        arguments: how it is called.
        inline: children that are traced through.
        strict: refuse a forward with effects that a trace loses; False for plans of earlier versions.

    Raises:
        CaptureError: torch.fx cannot follow the forward, or the forward has effects beside its result.
    """
    if instance_forward(module):
        raise _refused(module, f"its forward is set on the instance: {instance_forward(module)}")
    with modes_kept(module):
        evaluate, made, asked = _trace(module, arguments, inline, strict, training=False)
        train, more, _ = _trace(module, arguments, inline, strict, training=True) if asked else (evaluate, made, asked)
    return Traced(Graph(evaluate, made), Graph(train, more) if asked else None)


def _trace(
    module: nn.Module, arguments: Arguments, inline: frozenset[str], strict: bool, training: bool
) -> tuple[fx.Graph, dict[str, Tensor], bool]:
    """Trace one mode; also return the constants made, and whether the forward asked for the mode."""
    state = State(module)
    try:
        with (
            in_mode(module, training) as asked,
            random_kept(closely=True) as drawn,
            kept_calls(),
            (refusing_losses if strict else _not_refusing)() as passed,
        ):
            graph = IslandTracer(arguments, inline, passed).trace(module)
        changed = state.changes()
        made = {k: module.__dict__[k] for k in changed if k.startswith("_tensor_constant")}
        kept = [k for k in changed if k not in made]
        if kept:
            raise _refused(module, f"its forward sets self.{kept[0]}, which a trace does not keep")
        if drawn.torch or drawn.python:
            raise _refused(module, "its forward draws random numbers that a trace would freeze")
        return graph, made, bool(asked)
    except CaptureError:
        raise
    except Exception as error:
        raise _refused(module, first_line(error)) from error
    finally:
        state.restore()


@contextmanager
def _not_refusing() -> Iterator[list[Any]]:
    yield []


def _refused(module: nn.Module, why: str) -> CaptureError:
    return CaptureError(f"torch.fx cannot trace {type(module).__name__}.forward", why=why)


def share_constants(traced: Graph, shared: dict[str, Tensor]) -> None:
    """Rename the constants of a graph to their names in `shared`, which holds every tensor once."""
    for node in traced.graph.find_nodes(op="get_attr"):
        tensor = traced.constants.get(str(node.target))
        if tensor is not None:
            node.target = next((k for k, v in shared.items() if _same(v, tensor)), f"{_CONSTANT}{len(shared)}")
            shared[node.target] = tensor


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.dtype == b.dtype and a.device == b.device and not a.is_meta and torch.equal(a, b))


def graph_ops(traced: Graph, root: nn.Module) -> tuple[list[Op], dict[int, Value]]:
    """Read an fx graph as operations, for the recognizer; values are numbered by node."""
    number = {node: i for i, node in enumerate(traced.graph.nodes)}
    ops: list[Op] = []
    values = {i: Value((), True) for i in number.values()}

    def refs(tree: Any) -> Any:
        return fx.node.map_arg(tree, lambda n: Ref(number[n]))

    for node, i in number.items():
        if node.op == "get_attr":
            found: Any = traced.constants.get(str(node.target))
            name = str(node.target) if found is None else ""
            if found is None:
                found = operator.attrgetter(str(node.target))(root)
            if isinstance(found, Tensor):
                values[i] = Value(tuple(found.shape), found.is_floating_point(), found.detach(), name)
        elif node.op in ("call_function", "call_method"):
            norm = canonical(node.target, refs(node.args), refs(node.kwargs))
            form = "method" if node.op == "call_method" else "function"
            ops.append(Op(i, norm.name, norm.args, (i,), norm.inplace, form=form, node=node))
        elif node.op == "call_module":
            ops.append(
                Op(
                    i,
                    "call_module",
                    {"target": node.target, "args": refs(node.args), "kwargs": refs(node.kwargs)},
                    (i,),
                    node=node,
                )
            )
    return ops, values


def compile_graph(graph: fx.Graph, label: str) -> Callable[..., Any]:
    """Return the graph as a function `forward(self, *placeholders)`; tracebacks show its source."""
    code = graph.python_code("self")
    name = f"<actswap island {label}>"
    linecache.cache[name] = (len(code.src), None, code.src.splitlines(True), name)
    namespace = dict(code.globals)
    exec(compile(code.src, name, "exec"), namespace)
    forward: Callable[..., Any] = namespace["forward"]
    return forward


@dataclass(frozen=True)
class Variant:
    """One traced way of calling an island: its arguments, and its forward in eval and in training mode."""

    arguments: Arguments
    evaluate: Callable[..., Any]
    train: Callable[..., Any]


def forward_of(module: nn.Module, variants: Sequence[Variant], label: str) -> FunctionType:
    """Return the forward of an island, with the signature of the class's own."""
    kind, known, signature = type(module), tuple(variants), Signature.of(module)

    def forward(self: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        leaves, spec = tree_flatten(signature.normalize(args, kwargs))
        for variant in known:
            if variant.arguments.accepts(leaves, spec):
                run = variant.train if self.training else variant.evaluate
                return run(self, *variant.arguments.free(leaves))
        given = Arguments.of(*signature.normalize(args, kwargs))
        raise CaptureError(
            f"{label or kind.__name__} was converted for other arguments",
            where=label,
            why=f"it was captured with {' or '.join(str(v.arguments) for v in known)} and is now called with {given}",
            fix="convert the original model again with example inputs that make this call",
        )

    return same_signature(kind.forward, forward)


def keep_constants(module: nn.Module, constants: Mapping[str, Tensor]) -> None:
    """Let the constants of graphs be buffers that follow the module to its device, but not into its state dict."""
    for name, tensor in constants.items():
        module.register_buffer(name, tensor, persistent=False)


def uninstall(module: nn.Module) -> None:
    """Undo `install` and `install_methods`."""
    if uninstall_methods(module):
        for name in [n for n in module._buffers if n.startswith(_CONSTANT)]:
            delattr(module, name)
