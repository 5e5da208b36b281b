"""Trace with torch.fx so that other threads, and the model itself, notice nothing.

`fx.Tracer.trace` exchanges `nn.Module.__call__` and `__getattr__` for the whole process, and says to the whole process
that it traces: a model that another thread runs meanwhile would be called by the tracer. Here this thread alone sees
the exchange, and the mode that the forward is traced in.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn
from torch.fx import _symbolic_trace as internals

from actswap.capture.own_thread import Shared, patched

# What torch's attention layers check of their masks needs real tensors; the calls stay in the graph.
_CHECKS = ("_canonical_mask", "_none_or_dtype")
_one = threading.RLock()  # fx wraps functions in the globals of the modules that it meets, and takes that back


class _Here(threading.local):
    """What this thread is doing."""

    tracing = False
    asking: _Asked | None = None


_here = _Here()


class _Tracing:
    """Stands for fx's global flag; true in the thread that traces."""

    def __bool__(self) -> bool:
        return _here.tracing


_FLAG = Shared(internals, "_is_fx_tracing_flag", _Tracing())


class ThreadTracer(fx.Tracer):
    """An `fx.Tracer` of modules whose patches one thread sees."""

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Trace the forward of a module."""
        self.root = root
        self.root_module_name = root._get_name()
        self.submodule_paths = {module: name for name, module in root.named_modules()}
        self.graph = fx.Graph(tracer_cls=type(self))
        self.tensor_attrs = {
            value: f"{name}.{key}" if name else key
            for name, module in root.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, internals._constant_attribute_types)
        }
        forward = type(root).forward
        bound, args = self.create_args_for_root(forward, True, concrete_args)
        proxies: dict[str, fx.Proxy] = {}

        # The originals are torch's own: what stands there may be the patch of another tracer, which traces the outside.
        def read(original: Callable[..., Any]) -> Callable[..., Any]:
            return lambda module, name: self.getattr(name, internals._orig_module_getattr(module, name), proxies)

        def called(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                around = getattr(module.forward, "__globals__", {})
                internals._autowrap_check(patcher, around, self._autowrap_function_ids)
                plain = functools.partial(internals._orig_module_call, module)
                return self.call_module(module, plain, args, kwargs)

            return call

        with (
            _one,
            _FLAG.standing(),
            patched(nn.Module, "__getattr__", read),
            patched(nn.Module, "__call__", called),
            internals._Patcher() as patcher,
        ):
            internals._patch_wrapped_functions(patcher)
            for names in (getattr(forward, "__globals__", {}), *map(vars, self._autowrap_search)):
                internals._autowrap_check(patcher, names, self._autowrap_function_ids)
            before, _here.tracing = _here.tracing, True
            try:
                out = self.create_arg(bound(*args))
            finally:
                _here.tracing = before
            returned = inspect.get_annotations(inspect.unwrap(bound)).get("return")
            self.create_node("output", "output", (out,), {}, type_expr=returned)
        self.submodule_paths = None
        return self.graph


class _Asked:
    """Whether a mode was asked for, and the modes that this thread sees, by the module's identity."""

    def __init__(self, outer: _Asked | None) -> None:
        self.yes = False
        self.modes: dict[int, bool] = {} if outer is None else dict(outer.modes)

    def __bool__(self) -> bool:
        return self.yes


def _read(module: nn.Module) -> bool:
    if not torch.compiler.is_compiling() and _here.asking is not None:
        _here.asking.yes = True
        if id(module) in _here.asking.modes:
            return _here.asking.modes[id(module)]
    try:
        return bool(module.__dict__["training"])
    except KeyError:
        raise AttributeError("training") from None  # a ScriptModule keeps it elsewhere


def _write(module: nn.Module, mode: bool) -> None:
    if _here.asking is None:
        module.__dict__["training"] = mode
    else:
        _here.asking.modes[id(module)] = mode


_TRAINING = Shared(nn.Module, "training", property(_read, _write))


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[_Asked]:
    """Let this thread see a module in another mode; the module keeps its own.

    Returns:
        What is true once any module has been asked for its mode.
    """
    outer = _here.asking
    with _TRAINING.standing():
        try:
            _here.asking = _Asked(outer)
            module.train(training)  # a class may do more than set the flag
            _here.asking.yes = False
            yield _here.asking
        finally:
            _here.asking = outer


@contextmanager
def kept_calls() -> Iterator[None]:
    """Let the functions of `_CHECKS` be calls in the graph; fx alone would trace into them."""

    def kept(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            proxy = next((a for a in (*args, *kwargs.values()) if isinstance(a, fx.Proxy)), None)
            if proxy is None:
                return original(*args, **kwargs)
            return proxy.tracer.create_proxy("call_function", original, args, kwargs)

        return call

    with ExitStack() as stack:
        for name in _CHECKS:
            stack.enter_context(patched(F, name, kept))
        yield
