"""Run a model once and write down what happens: the tape.

A torch function mode sees every torch call. A patched `nn.Module.__call__` sees every module call, even of modules that
are not registered. Both see the calls of the observing thread only. The model is not changed. The tape keeps only
numbers, shapes and the model's own constants, so the memory needed is that of the forward pass.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import GeneratorType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from actswap.activations.base import Activation
from actswap.activations.bounded import Bounded
from actswap.activations.morph import Morph
from actswap.activations.plain import SourceModule
from actswap.capture.canonical import Canonical, canonical
from actswap.capture.evaluating import evaluating
from actswap.capture.own_thread import patched
from actswap.capture.private_random import private_random
from actswap.capture.spots import Spot, Spots
from actswap.capture.tape import Call, Op, Ref, Tape, Value
from actswap.errors import CaptureError, first_line

_LARGEST_CONSTANT = 65536  # PReLU slopes and scales, not weight matrices
_FACTORIES = frozenset(("tensor", "as_tensor", "scalar_tensor", "full", "ones", "zeros", "new_tensor", "new_full"))


# Attributes of a tensor that are another view of it.
_VIEWS: dict[str, tuple[str, dict[str, int]]] = {
    "mT": ("transpose", {"dim0": -2, "dim1": -1}),
    "mH": ("transpose", {"dim0": -2, "dim1": -1}),
    "T": ("t", {}),
    "H": ("t", {}),
    "data": ("detach", {}),
    "real": ("identity", {}),
}


class _Numbers:
    """Number tensors by identity. An in-place operation gives its tensor a new number."""

    def __init__(self, tape: Tape, model: nn.Module) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._tape = tape
        self._names = {id(t): n for n, t in (*model.named_buffers(), *model.named_parameters())}

    def of(self, tensor: Tensor, fresh: bool = False, constant: bool = False) -> int:
        ref, number = self._known.get(id(tensor), (None, -1))
        known = ref is not None and ref() is tensor
        if known and not fresh:
            return number
        number = len(self._tape.values)
        self._known[id(tensor)] = (weakref.ref(tensor), number)
        dense = tensor.layout is torch.strided
        keep = dense and (constant or (not known and not fresh)) and tensor.numel() <= _LARGEST_CONSTANT
        self._tape.values[number] = Value(
            tuple(tensor.shape) if dense else (),
            tensor.is_floating_point(),
            tensor.detach() if keep else None,
            self._names.get(id(tensor), "") if keep else "",
        )
        return number


def _user_line(depth: int = 2) -> str:
    """Return `file:line` of the innermost frame outside torch and this folder."""
    frame = sys._getframe(depth)
    while frame is not None:
        file = frame.f_code.co_filename
        if frame.f_code is observe.__code__:
            return ""  # the whole stack is torch's own code: the model is an nn.Sequential
        if not file.startswith((_TORCH, _HERE)):
            return f"{file}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


_TORCH = torch.__path__[0] + "/"
_HERE = __file__.rpartition("/")[0] + "/"


class _Scripted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record the operations that TorchScript runs: they reach the dispatcher without a torch call in Python."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        recorder = self.recorder
        if recorder.stack and not recorder.running and not recorder.opaque:
            recorder.tape.scripted.append((recorder.stack[-1], canonical(func.overloadpacket.__name__, args, {}).name))
        recorder.opaque += 1  # the call below is a torch call in Python again
        try:
            return func(*args, **(kwargs or {}))
        finally:
            recorder.opaque -= 1


def _runs_script(model: nn.Module) -> bool:
    scripted = torch.jit._state._python_cu.get_functions()  # type: ignore[func-returns-value]
    return bool(scripted) or any(isinstance(m, torch.jit.ScriptModule) for m in model.modules())


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module, spots: bool) -> None:
        super().__init__()
        self.tape = Tape()
        self.numbers = _Numbers(self.tape, model)
        self.spots = Spots(self.numbers.of) if spots else None
        self.names: dict[int, str] = {id(m): n for n, m in model.named_modules(remove_duplicate=True)}
        self.stack: list[int] = []
        self.opaque = self.running = 0

    def refs(self, tree: Any, constant: bool = False) -> Any:
        if isinstance(tree, Tensor):
            return Ref(self.numbers.of(tree, constant=constant))
        if type(tree) is tuple or type(tree) is list:
            return type(tree)([self.refs(v, constant) for v in tree])
        if type(tree) is dict:
            return {k: self.refs(v, constant) for k, v in tree.items()}
        if tree is None or isinstance(tree, (int, float, str)):
            return tree
        return tree_map(lambda v: self.refs(v, constant) if isinstance(v, Tensor) else v, tree)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.running += 1
        try:
            return self.record(func, args, dict(kwargs or {}))
        finally:
            self.running -= 1

    def record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one torch call and record it."""
        name = getattr(func, "__name__", "")
        view = _VIEWS.get(getattr(func.__self__, "__name__", "")) if name == "__get__" else None
        if self.opaque or not self.stack or (view is None and name in ("__get__", "size", "dim", "stride")):
            return func(*args, **kwargs)
        norm = (
            canonical(func, args, kwargs) if view is None else Canonical(view[0], {"input": args[0], **view[1]}, False)
        )
        inputs = self.refs(norm.args)
        out = func(*args, **kwargs)
        tensors = [out] if isinstance(out, Tensor) else [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if tensors:
            touched = args[0] if args else kwargs.get("input")
            aliased = norm.inplace or norm.name in ("setitem", "copy", "fill", "zero")
            constant = norm.name in _FACTORIES
            outs = tuple(
                self.numbers.of(t, fresh=(t is not touched or aliased), constant=constant and t.numel() == 1)
                for t in tensors
            )
            form = "method" if getattr(func, "__objclass__", None) is not None else "function"
            self.tape.ops.append(
                Op(
                    len(self.tape.ops),
                    norm.name,
                    inputs,
                    outs,
                    norm.inplace,
                    self.stack[-1],
                    _user_line(),
                    form,
                    spot=self.spot(self.stack[-1]),
                )
            )
        elif norm.name == "setitem" and isinstance(args[0], Tensor):
            self.numbers.of(args[0], fresh=True)
        return out

    def spot(self, call: int) -> Spot | None:
        """Return the place in the user's code, in a method of the innermost registered module that runs."""
        if self.spots is None:
            return None
        while self.tape.calls[call].name is None:
            call = self.tape.calls[call].parent
        return self.spots.spot(sys._getframe(2), self.tape.calls[call].module)

    def call(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        if self.opaque:
            return original(module, *args, **kwargs)
        index = len(self.tape.calls)
        parent = self.stack[-1] if self.stack else -1
        shown = self.refs(args), self.refs(kwargs)
        record = Call(index, module, parent, self.names.get(id(module)), args=shown[0], kwargs=shown[1])
        record.line = _user_line(3)
        if parent >= 0:
            record.spot = self.spot(parent)
        record.inputs = tuple(r.id for r in tree_leaves(shown, is_leaf=_is_ref) if isinstance(r, Ref))
        self.tape.calls.append(record)
        self.stack.append(index)
        first = len(self.tape.ops)
        hidden = isinstance(module, (Activation, Bounded, Morph, SourceModule))
        self.opaque += hidden
        try:
            out = original(module, *args, **kwargs)
            lazy = isinstance(out, GeneratorType)
            if lazy:
                out = list(out)  # run the generator now, so that its operations belong to this call
        finally:
            self.opaque -= hidden
            self.stack.pop()
        if hidden and isinstance(out, Tensor):
            arg = {"input": record.args[0] if record.args else None}
            op = Op(
                len(self.tape.ops),
                f"actswap.{_target_name(module)}",
                arg,
                (self.numbers.of(out, fresh=True),),
                call=index,
            )
            self.tape.ops.append(op)
        record.ops = (first, len(self.tape.ops))
        record.outputs = tuple(self.numbers.of(t) for t in tensors_of(out))
        return iter(out) if lazy else out


def _target_name(module: nn.Module) -> str:
    """Return the name of the activation inside the wrappers."""
    while isinstance(module, (Morph, Bounded)):
        module = module.target if isinstance(module, Morph) else module.inner
    return module.source.kind if isinstance(module, SourceModule) else str(module.name)


def _is_ref(value: Any) -> bool:
    return isinstance(value, Ref)


@contextmanager
def _watched(recorder: _Recorder, scripted: bool) -> Iterator[None]:
    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return recorder.call(original, module, args, kwargs)

        return call

    with patched(nn.Module, "__call__", watched), recorder, _Scripted(recorder) if scripted else nullcontext():
        yield


def observe(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    spots: bool = False,
    training: bool = False,
    then: Callable[[list[Tensor]], None] | None = None,
) -> Tape:
    """Run `model(*args, **kwargs)` once in eval mode, without gradients, and return its tape.

    Args:
        model: any module; it is not changed.
        args: positional inputs.
        kwargs: keyword inputs.
        spots: also record the place of every call in the source.
        training: run in train mode, with gradients.
        then: called with the tensors of the output, while the model is still in the mode of the run.

    Returns:
        The tape.

    Raises:
        CaptureError: the model does not run on these inputs.
    """
    recorder = _Recorder(model, spots)
    for tensor in tree_leaves((args, dict(kwargs or {}))):
        if isinstance(tensor, Tensor):
            recorder.numbers.of(tensor, fresh=True)  # an input is no constant of the model
    # A run in train mode draws random numbers. It takes them from private generators, so the global state is unchanged.
    drawing = private_random(of=model) if training else nullcontext()
    watched = _watched(recorder, _runs_script(model))
    with evaluating(model), drawing, watched, torch.set_grad_enabled(training):
        if training:
            model.train()
        try:
            out = model(*args, **dict(kwargs or {}))
            tensors = list(tensors_of(out))
            if then is not None:
                recorder.opaque += 1  # its calls are no part of the run
                then(tensors)
            results = tuple(t.detach().clone() for t in tensors)
        except Exception as error:
            shapes = [tuple(a.shape) for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
            raise CaptureError(
                f"{type(model).__name__} does not run on the example inputs",
                where=_where(error),
                why=f"inputs of shape {', '.join(map(str, shapes))}: {first_line(error)}",
                fix="pass inputs that the model accepts: scan(model, torch.randn(1, 3, 224, 224)) or "
                "--input 1,3,224,224",
            ) from error
    tape = recorder.tape
    tape.outputs = tuple(recorder.numbers.of(t) for t in tensors)
    tape.results = results
    return tape


def tensors_of(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of a model output: nested lists, tuples, dicts and output objects."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_of(value)
    elif isinstance(output, (list, tuple, Iterator)):
        for value in output:
            yield from tensors_of(value)
    elif hasattr(output, "__dataclass_fields__"):
        for name in output.__dataclass_fields__:
            yield from tensors_of(getattr(output, name))


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    place = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((_TORCH, _HERE)):
            place = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
