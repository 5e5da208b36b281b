"""Declare operators: `torch.ops.actswap.<name>`, its gradient, its shape rule and its formula.

The autograd.Function stands outside the dispatcher in eager mode (half the call cost of
torch.library.custom_op), and behind the operator's Autograd key elsewhere, so that torch.compile,
torch.export and torch.fx see one node. Forward mode, functorch transforms and double backward are computed
by the formula.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from actswap.errors import UsageError
from actswap.ops import dispatch, switch
from actswap.ops.decompositions import by_aten, tell_exporters

NAMESPACE = "actswap"
_HALF = (torch.bfloat16, torch.float16)
_PLAIN = (Tensor, torch.nn.Parameter)
_AUTOGRAD = tuple(
    getattr(torch._C.DispatchKey, name)
    for name in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor", "ADInplaceOrView")
)
_library: Any = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
_operators: dict[str, Operator] = {}
_functions: dict[str, Callable[..., Tensor]] = {}

_peek_functorch = torch._C._functorch.peek_interpreter_stack
_has_torch_function = torch.overrides.has_torch_function
_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_compiling = torch.compiler.is_compiling
_is_dynamo_compiling = torch.compiler.is_dynamo_compiling
_jit_tracing = torch._C._get_tracing_state


@dataclass(frozen=True)
class Operator:
    """A declared operator.

    Attributes:
        name: name in the namespace `actswap`.
        schema: its torch schema.
        formula: plain PyTorch, differentiable: the oracle and the fallback.
        tensors: the first so many arguments are tensors, x before all.
    """

    name: str
    schema: str
    formula: Callable[..., Tensor]
    tensors: int

    def reference(self, *args: Any) -> Tensor:
        """Compute the formula; half precision in float32, the result in x's dtype."""
        x = args[0]
        if x.dtype in _HALF:
            args = tuple(a.float() if isinstance(a, Tensor) and a.dtype in _HALF else a for a in args)
        return self.formula(*args).to(x.dtype)

    def reference_gradients(
        self, grad: Tensor, args: Sequence[Any], needs: Sequence[bool], create_graph: bool
    ) -> list[Tensor | None]:
        """Differentiate the formula: one gradient per tensor argument, None if it is not needed."""
        held = list(args)
        with torch.enable_grad(), _autograd_on():
            if not create_graph:
                for position, need in enumerate(needs):
                    held[position] = args[position].detach().requires_grad_(need)
            else:
                # A fresh node per argument: a tensor passed twice keeps two gradients.
                for position in range(self.tensors):
                    held[position] = args[position].view_as(args[position])
            wanted = [tensor for tensor, need in zip(held, needs, strict=False) if need]
            y = self.reference(*held)
            found = iter(torch.autograd.grad(y, wanted, grad, create_graph=create_graph, allow_unused=True))
        return [next(found) if need else None for need in needs]


@contextmanager
def _autograd_on() -> Iterator[None]:
    """Let autograd see the block: below a TorchDispatchMode torch has taken it out of the dispatch."""
    keys = [key for key in _AUTOGRAD if torch._C._dispatch_tls_is_dispatch_key_excluded(key)]
    try:
        for key in keys:
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
        yield
    finally:
        for key in keys:
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, True)


def operators() -> dict[str, Operator]:
    """Return the declared operators by name."""
    return dict(_operators)


def function_of(name: str) -> Callable[..., Tensor] | None:
    """Return what `define` returned for an operator, None if nothing declared it."""
    return _functions.get(name)


def define(schema: str, formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Declare `torch.ops.actswap.<name>` and return the function to call.

    Args:
        schema: `name(Tensor x, Tensor p, ..., int dim)`, the tensors first; the result is one tensor like x.
        formula: the same arguments, plain PyTorch. It is differentiated if no kernel fits.

    Returns:
        A function with the operator's positional arguments.

    Raises:
        UsageError: a tensor comes after another argument.
    """
    schema = schema if "->" in schema else f"{schema} -> Tensor"
    parsed = torch._C.parse_schema(f"{NAMESPACE}::{schema}")
    name = parsed.name.split("::")[1]
    is_tensor = [str(a.type) == "Tensor" for a in parsed.arguments]
    tensors = sum(is_tensor)
    if not all(is_tensor[:tensors]):
        raise UsageError(f"operator {schema}", why="its tensors must come first", fix="reorder the arguments")
    operator = Operator(name, schema, formula, tensors)
    _operators[name] = operator

    arguments = schema[schema.index("(") + 1 : schema.rindex("->")].rstrip().rstrip(")")
    _library.define(schema)
    _library.define(f"{name}_backward(Tensor grad, {arguments}, Tensor? aux, bool[] needs) -> Tensor[]")
    op = getattr(getattr(torch.ops, NAMESPACE), name).default
    backward_op = getattr(getattr(torch.ops, NAMESPACE), f"{name}_backward").default
    function: Any = _function(operator, op, backward_op)

    def compute(*args: Any) -> Tensor:
        found = dispatch.forward(name, args)
        return _dense_like(args[0], operator.reference(*args)) if found is None else found[0]

    def compute_backward(grad: Tensor, *rest: Any) -> list[Tensor]:
        args, aux, needs = rest[:-2], rest[-2], rest[-1]
        if grad.shape != args[0].shape or len(needs) != tensors:
            why = f"the gradient is {tuple(grad.shape)} for x {tuple(args[0].shape)}, needs are {len(needs)}"
            raise UsageError(f"actswap::{name}_backward", why=why, fix=f"a gradient like x, and {tensors} needs")
        found = dispatch.backward(name, grad, args, aux, needs)
        if found is None:
            found = operator.reference_gradients(grad, args, needs, create_graph=False)
        return _complete(args, found)

    def differentiable(*args: Any) -> Tensor:
        if _peek_functorch() is not None or forward_ad._current_level >= 0:
            return operator.reference(*args)
        if torch.is_grad_enabled() and any(a.requires_grad for a in args[:tensors]):
            result: Tensor = function.apply(*args)
            return result
        with torch._C._AutoDispatchBelowAutograd():
            below: Tensor = op(*args)
        return below

    def batched(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        pairs = list(zip(args, in_dims, strict=True))
        rows = [[a if d is None else a.select(d, k) for a, d in pairs] for k in range(info.batch_size)]
        return torch.stack([op(*row) for row in rows]), 0

    _library.impl(name, compute, "CompositeExplicitAutograd")
    _library.impl(name, differentiable, "Autograd")
    _library.impl(f"{name}_backward", compute_backward, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", _like_first, lib=_library)
    tell_exporters(op, operator.reference, _like_first)
    torch.library.register_fake(
        f"{NAMESPACE}::{name}_backward",
        lambda grad, *rest: _complete(
            rest, [torch.empty_like(a) if need else None for a, need in zip(rest, rest[-1], strict=False)]
        ),
        lib=_library,
    )
    torch.library.register_vmap(f"{NAMESPACE}::{name}", batched, lib=_library)

    direct = dispatch.fast_path(name)
    # Without Function.apply's own Python, which looks for transforms: a plain call is under none.
    apply = super(torch.autograd.Function, function).apply

    scripted = by_aten(name, operator.reference)

    def call(*args: Any) -> Tensor:
        if not _is_dynamo_compiling() and switch._current == "auto" and direct is not None:
            found = direct(*args)
            if found is False:
                found = apply(*args)
            if found is not None:
                return found
        if _makes_torchscript():
            with warnings.catch_warnings():  # about numbers of dimensions and channels, which a trace may keep
                warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)
                return scripted(*args)
        if (
            _is_compiling()
            or type(args[0]) not in _PLAIN
            or _has_torch_function(args)
            or _dispatch_modes()
            or _jit_tracing() is not None
        ):
            traced: Tensor = op(*args)
            return traced
        if _peek_functorch() is not None or forward_ad._current_level >= 0:
            return operator.reference(*args)
        fitting = dispatch.choose(name, args)
        if fitting is None:
            return operator.reference(*args)
        if torch.is_grad_enabled() and any(a.requires_grad for a in args[:tensors]):
            result: Tensor = function.apply(*args)
            return result
        return fitting.forward(args)[0]

    call.__name__ = call.__qualname__ = name
    call.__doc__ = formula.__doc__
    _functions[name] = call
    return call


def _makes_torchscript() -> bool:
    """Return whether TorchScript is made, which runs where actswap is not installed.

    Counters such as fvcore's trace too, but they look at the operators.
    """
    return _jit_tracing() is not None and (
        torch.jit._trace._trace_module_map is not None or torch.onnx.is_in_onnx_export()
    )


def is_eager(args: Sequence[Any]) -> bool:
    """Return whether a call is run as it stands: neither traced, compiled nor transformed. Modes may be on."""
    return (
        all(type(a) in _PLAIN for a in args if isinstance(a, Tensor))
        and not _is_compiling()
        and _jit_tracing() is None
        and _peek_functorch() is None
        and forward_ad._current_level < 0
    )


def _like_first(*args: Any) -> Tensor:
    return torch.empty_like(args[0])


def _function(operator: Operator, op: Any, backward_op: Any) -> type[torch.autograd.Function]:
    name, tensors = operator.name, operator.tensors

    class Activation(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Tensor:
            found = dispatch.forward(name, args) if type(args[0]) in _PLAIN and not _dispatch_modes() else None
            if found is None:
                with torch._C._AutoDispatchBelowAutograd():
                    found = op(*args), None
            y, aux = found
            ctx.options = args[tensors:]
            ctx.save_for_backward(*args[:tensors])
            # Not among the saved tensors: under a dispatch mode there is none, and checkpoint compares their number
            # with that of a second run, which may be outside of the mode.
            ctx.aux = aux
            return y

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            aux = ctx.aux
            args = (*ctx.saved_tensors, *ctx.options)
            needs = list(ctx.needs_input_grad[:tensors])
            found: Sequence[Tensor | None] | None = None
            if torch.is_grad_enabled():
                found = operator.reference_gradients(grad, args, needs, create_graph=True)
            elif type(grad) in _PLAIN and not _dispatch_modes():
                found = dispatch.backward(name, grad, args, aux, needs)
            if found is None:
                found = backward_op(grad, *args, aux, needs)
            wanted = (gradient if need else None for gradient, need in zip(found, needs, strict=True))
            return *wanted, *[None] * len(ctx.options)

    Activation.__name__ = f"{operator.name}_function"
    return Activation


def _complete(args: Sequence[Any], found: Sequence[Tensor | None]) -> list[Tensor]:
    """Fill the places of gradients that nobody needs: operators cannot return None in a list."""
    pairs = zip(args, found, strict=False)
    return [a.new_empty(0) if g is None else _dense_like(a, g) for a, g in pairs]


def _dense_like(x: Tensor, y: Tensor) -> Tensor:
    """Give y the layout that empty_like(x) has, as the shape rule promises."""
    like = torch.empty_like(x, device="meta")
    return y if y.stride() == like.stride() else torch.empty_like(x).copy_(y)
