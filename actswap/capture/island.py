"""The fx graph of one module's forward, with its children as leaves: an island.

The forward is traced with exactly the arguments that were observed: tensors (and numbers) become placeholders, every
other argument is bound to its observed value. It is traced in training and in eval mode, so that nothing of
`self.training` is frozen. The module keeps its class: its new forward is a method of a subclass made for it.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from actswap.capture.canonical import canonical, is_number
from actswap.capture.tape import Op, Ref, Value
from actswap.errors import CaptureError


@dataclass(frozen=True)
class Arguments:
    """The shape of a call: which leaves of (args, kwargs) are tensors, which numbers, and the values of the rest."""

    spec: TreeSpec
    leaves: tuple[Any, ...]  # `TENSOR`, `NUMBER`, or the constant itself

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any], free_numbers: bool = False) -> Arguments:
        """Describe a call; a tensor is a Tensor, an fx proxy or a `Ref`."""
        leaves, spec = tree_flatten((tuple(args), dict(kwargs)), is_leaf=lambda v: isinstance(v, Ref))
        return cls(spec, tuple(_leaf(v, free_numbers) for v in leaves))

    def accepts(self, leaves: Sequence[Any], spec: TreeSpec) -> bool:
        """True where a call with these leaves is the one described."""
        return (
            spec == self.spec
            and len(leaves) == len(self.leaves)
            and all(_fits(want, have) for want, have in zip(self.leaves, leaves, strict=True))
        )

    def free(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the leaves that are placeholders of the graph."""
        return [have for want, have in zip(self.leaves, leaves, strict=True) if isinstance(want, _Marker)]

    def __str__(self) -> str:
        shown = [str(leaf) for leaf in self.leaves]
        return f"({', '.join(shown)})"


@dataclass(frozen=True)
class _Marker:
    name: str

    def __str__(self) -> str:
        return self.name


TENSOR, NUMBER = _Marker("tensor"), _Marker("number")


def _leaf(value: Any, free_numbers: bool) -> Any:
    if isinstance(value, (Tensor, fx.Proxy, Ref)):
        return TENSOR
    if free_numbers and is_number(value):
        return NUMBER
    return value


def _fits(want: Any, have: Any) -> bool:
    if want is TENSOR:
        return isinstance(have, (Tensor, fx.Proxy))
    if want is NUMBER:
        return is_number(have) or isinstance(have, (torch.SymInt, torch.SymFloat, fx.Proxy))
    if isinstance(have, (Tensor, fx.Proxy)):
        return False
    return want is have or (type(want) is type(have) and bool(want == have))


class IslandTracer(fx.Tracer):
    """Trace one module; children are leaves, modules that are not registered are traced through."""

    def __init__(self, arguments: Arguments, inline: frozenset[str]) -> None:
        super().__init__(param_shapes_constant=True)
        self.arguments, self.inline = arguments, inline
        self._registered: set[int] = set()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Every registered child is a leaf, unless it is part of a formula of the owner."""
        return module_qualified_name not in self.inline

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace through modules that are not registered below the root."""
        if not self._registered:
            self._registered = {id(c) for c in self.root.modules()}
        if id(m) not in self._registered:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Placeholders for the free leaves, observed values for the others."""
        leaves: list[Any] = []
        for want in self.arguments.leaves:
            if isinstance(want, _Marker):
                leaves.append(self.create_proxy("placeholder", f"arg{len(leaves)}", (), {}))
            else:
                leaves.append(want)
        args, kwargs = tree_unflatten(leaves, self.arguments.spec)

        def bound(root: nn.Module) -> Any:
            return root_fn(root, *args, **kwargs)

        return bound, [self.root]


def trace(module: nn.Module, arguments: Arguments, inline: frozenset[str], training: bool) -> fx.Graph:
    """Trace a module's forward in the given mode; the module is left as it was.

    Raises:
        CaptureError: torch.fx cannot follow the forward.
    """
    modes = [(m, m.training) for m in module.modules()]
    module.train(training)
    try:
        return IslandTracer(arguments, inline).trace(module)
    except Exception as error:
        raise CaptureError(
            f"torch.fx cannot trace {type(module).__name__}.forward",
            why=f"{type(error).__name__}: {_first(error)}",
        ) from error
    finally:
        for m, mode in modes:
            m.training = mode


def _first(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "no message"


def graph_ops(graph: fx.Graph, root: nn.Module) -> tuple[list[Op], dict[int, Value]]:
    """Read an fx graph as operations, for the recognizer; values are numbered by node."""
    number = {node: i for i, node in enumerate(graph.nodes)}
    ops: list[Op] = []
    values = {i: Value((), True) for i in number.values()}

    def refs(tree: Any) -> Any:
        return fx.node.map_arg(tree, lambda n: Ref(number[n]))

    for node, i in number.items():
        if node.op == "get_attr":
            found: Any = root
            for part in str(node.target).split("."):
                found = getattr(found, part)
            if isinstance(found, Tensor):
                values[i] = Value(tuple(found.shape), found.is_floating_point(), found.detach())
        elif node.op in ("call_function", "call_method"):
            norm = canonical(node.target, refs(node.args), refs(node.kwargs))
            form = "method" if node.op == "call_method" else "function"
            ops.append(Op(i, norm.name, norm.args, (i,), norm.inplace, form=form, node=node))
        elif node.op == "call_module":
            ops.append(Op(i, "call_module", {"target": node.target, "args": refs(node.args)}, (i,), node=node))
    return ops, values


def compile_graph(graph: fx.Graph, label: str) -> Callable[..., Any]:
    """Return the graph as a function `forward(self, *placeholders)`; its source shows up in tracebacks."""
    code = graph.python_code("self")
    name = f"<actswap island {label}>"
    linecache.cache[name] = (len(code.src), None, code.src.splitlines(True), name)
    namespace = dict(code.globals)
    exec(compile(code.src, name, "exec"), namespace)
    forward: Callable[..., Any] = namespace["forward"]
    return forward


@dataclass(frozen=True)
class Signature:
    """How a forward is called: its positional parameters, so that f(x), f(x=x) and f(x, mask=None) are one call."""

    names: tuple[str, ...]
    defaults: Mapping[str, Any]

    @classmethod
    def of(cls, module: nn.Module) -> Signature:
        """Read the signature of a module's class."""
        found = inspect.signature(type(module).forward).parameters.values()
        if any(p.kind is p.VAR_POSITIONAL for p in found):
            return cls((), {})
        named = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]
        return cls(tuple(p.name for p in named), {p.name: p.default for p in named if p.default is not p.empty})

    def normalize(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Pass by position what can be passed by position, defaults included."""
        positional, rest = list(args), dict(kwargs)
        for name in self.names[len(positional) :]:
            if name in rest:
                positional.append(rest.pop(name))
            elif name in self.defaults:
                positional.append(self.defaults[name])
            else:
                break
        return tuple(positional), rest


@dataclass(frozen=True)
class Variant:
    """One traced way of calling an island: its arguments, and its forward in eval and in training mode."""

    arguments: Arguments
    evaluate: Callable[..., Any]
    train: Callable[..., Any]


def install(module: nn.Module, variants: Sequence[Variant], label: str) -> None:
    """Give `module` the traced forward, as a method of a subclass of its class made for it alone."""
    base = type(module)
    known, signature = tuple(variants), Signature.of(module)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        leaves, spec = tree_flatten(signature.normalize(args, kwargs))
        for variant in known:
            if variant.arguments.accepts(leaves, spec):
                run = variant.train if self.training else variant.evaluate
                return run(self, *variant.arguments.free(leaves))
        given = Arguments.of(*signature.normalize(args, kwargs))
        raise CaptureError(
            f"{label or base.__name__} was converted for other arguments",
            where=label,
            why=f"it was captured with {' or '.join(str(v.arguments) for v in known)} and is now called with {given}",
            fix="convert the original model again with example inputs that make this call",
        )

    namespace = {"forward": forward, "__module__": base.__module__, "__qualname__": base.__qualname__}
    module.__class__ = type(base.__name__, (base,), {**namespace, "_actswap_base": base})


def uninstall(module: nn.Module) -> None:
    """Undo `install`."""
    base = getattr(type(module), "_actswap_base", None)
    if base is not None:
        module.__class__ = base
