"""What would be lost if a function were traced, or replaced as a whole: everything that Python does beside the tensors.

`losses` reads the bytecode of a function and of the functions it calls by name, and returns the first such thing in
words. Two cases, which differ in what may be read:

1. *replaced*: a function that is one activation is replaced as a whole. Its constants, attributes and questions
   (`torch.jit.is_scripting()`) go with it; what it does to the world outside would be lost.
2. *traced*: a trace keeps tensor operations only. What the function reads beside parameters, buffers and children
   (`self.drop`, a global, whether gradients are on) would be frozen too.

Lost in both cases: `with` blocks and functions that switch gradients, autocast or random numbers; `checkpoint`;
attributes, globals, outer variables and entries that are set; calls of what is not known to be free of side effects.
While torch.fx traces, `refusing_losses` refuses such functions before they run: no list or object ever sees a Proxy.
"""

from __future__ import annotations

import builtins
import dis
import gc
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from actswap.errors import CaptureError

_TORCH = tuple(f"{p}/" for p in torch.__path__)
_ACTSWAP = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STANDARD = sysconfig.get_paths()["stdlib"]
_STANDARD_FREE = (
    "typing.py",
    "collections/__init__.py",
    "enum.py",
    "abc.py",
    "functools.py",
    "types.py",
    "operator.py",
)
# torch's own Python that only passes tensors on.
_THIN: tuple[str, ...] = ("nn/functional.py", "functional.py", "_tensor.py", "_jit_internal.py", "overrides.py")
_THIN += ("_ops.py", "_VF.py", "nn/modules/", "nn/parameter.py", "fx/", "special/", "_functorch/", "ao/nn/")
# torch's and the standard library's own Python that a trace would lose.
_SWITCHING = ("utils/checkpoint", "utils/_contextlib", "autograd/", "amp/", "random", "cuda/", "_compile", "compiler/")
_EFFECTS = ("random.py", "logging/__init__.py", "warnings.py", "threading.py", "contextlib.py", "time.py")
_ASKING = frozenset(("is_scripting", "is_tracing", "is_compiling", "is_dynamo_compiling", "is_exporting"))
_ASKING |= frozenset(("isinstance", "issubclass", "type", "hasattr", "callable", "id", "getattr"))
_SETTING = ("set_", "_set_", "manual_seed", "seed")
_STATE = ("get_", "_get_", "is_grad", "is_autocast", "is_inference")
_PURE_MODULES = (None, "builtins", "math", "operator", "_operator", "itertools", "functools", "_functools", "cmath")
_IMPURE_BUILTINS = frozenset(
    ("print", "input", "open", "setattr", "delattr", "exec", "eval", "compile", "globals", "locals", "vars", "next")
)
_MUTATING = frozenset(
    ("append", "extend", "insert", "pop", "remove", "clear", "update", "setdefault", "popitem", "add", "discard")
    + ("sort", "reverse", "appendleft", "extendleft", "popleft", "__setitem__", "__delitem__")
)
_NUMBERS = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))
_TORCH_CONSTANTS = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, torch.finfo, torch.iinfo)
_SKIPPED = frozenset(("PUSH_NULL", "PRECALL", "CACHE", "NOP", "EXTENDED_ARG", "RESUME", "COPY_FREE_VARS"))
_UNKNOWN: Any = object()
_DEPTH = 8


def losses(
    code: CodeType,
    names: Mapping[str, Any],
    closure: Mapping[str, Any],
    owner: nn.Module | None = None,
    traced: bool = False,
) -> str:
    """Return the first thing that would be lost, "" if nothing.

    Args:
        code: of the function.
        names: its global variables.
        closure: its outer variables.
        owner: the module that is its first argument, if it is one.
        traced: case 2 of this module's docstring; else case 1.

    Examples:
        >>> losses((lambda x: x.relu() * 2).__code__, {}, {})
        ''
        >>> losses((lambda x: print(x)).__code__, {}, {})
        'calls print'
    """
    return _Reader(traced).code(code, names, closure, owner, 0)


def losses_of(function: Any, owner: nn.Module | None = None) -> str:
    """As `losses` in case 1, for a function object with its decorators."""
    return _Reader(False).value(function, getattr(function, "__name__", "a function"), 0, owner)


class _Reader:
    """Reads functions; each code once."""

    def __init__(self, traced: bool) -> None:
        self.traced = traced
        self.seen: set[tuple[CodeType, int]] = set()

    def code(
        self, code: CodeType, names: Mapping[str, Any], closure: Mapping[str, Any], owner: nn.Module | None, depth: int
    ) -> str:
        if (code, id(owner)) in self.seen or depth > _DEPTH:
            return ""
        self.seen.add((code, id(owner)))
        first = code.co_varnames[0] if code.co_argcount and owner is not None else None
        value, shown = _UNKNOWN, ""
        for instruction in dis.get_instructions(code):
            op, name = instruction.opname, instruction.argval
            if isinstance(name, tuple) and op.startswith("LOAD_FAST"):  # two loads in one instruction (Python 3.13)
                name = name[-1]
            if op in _SKIPPED:
                continue
            lost = _effect(op, name, code)
            if op in ("LOAD_GLOBAL", "LOAD_NAME"):
                value, shown = names.get(name, getattr(builtins, name, _UNKNOWN)), name
                lost = self.value(value, shown, depth)
            elif op.startswith(("LOAD_DEREF", "LOAD_CLASSDEREF")) and name in closure and name != first:
                value, shown = closure[name], name
                lost = "" if value is owner else self.value(value, shown, depth)
            elif owner is not None and op.startswith(("LOAD_FAST", "LOAD_DEREF")) and name == first:
                value, shown = owner, name
            elif op in ("LOAD_ATTR", "LOAD_METHOD") and value is not _UNKNOWN:
                owned = isinstance(value, nn.Module)
                value, shown = _attribute(value, str(name)), f"{shown}.{name}"
                if value is _UNKNOWN and owned and self.traced:
                    lost = f"reads {shown}"
                elif not (owned and name == "training"):
                    lost = self.value(value, shown, depth, owner, owned)
            else:
                value = _UNKNOWN
            if lost:
                return lost
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                around = {**closure, first: owner} if first is not None else closure
                lost = self.code(inner, names, around, None, depth + 1)
                if lost:
                    return lost
        return ""

    def value(self, value: Any, shown: str, depth: int, owner: nn.Module | None = None, owned: bool = False) -> str:
        """What is lost with a value that the function reads by name."""
        if value is _UNKNOWN or isinstance(value, (ModuleType, property)):
            return ""
        if isinstance(value, _TORCH_CONSTANTS) or (shown.startswith(("torch.", "math.")) and isinstance(value, float)):
            return ""
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if isinstance(value, MethodType):
            bound: Any = value.__self__ if owned else None
            return self.value(value.__func__, shown, depth, bound)
        if isinstance(value, FunctionType):
            return self._function(value, shown, depth, owner)
        if isinstance(value, type):
            return self._class(value, shown)
        if isinstance(value, nn.Module):
            own = not type(value).__module__.startswith(("torch.", "actswap."))
            return self.value(type(value).forward, shown, depth, value) if own and not self.traced else ""
        if isinstance(value, Tensor) or type(value).__name__ in ("Proxy", "_Weight"):
            return "" if owned or not self.traced else f"reads {shown}"
        if isinstance(value, BuiltinFunctionType) or inspect.isroutine(value):
            return self._builtin(value, shown)
        if callable(value) and type(value).__module__.startswith("torch."):  # an operator of torch.ops
            return ""
        if isinstance(value, _NUMBERS) or (isinstance(value, tuple) and all(isinstance(v, _NUMBERS) for v in value)):
            return f"reads {shown}, which may change" if self.traced else ""
        return f"uses {shown}, an object outside the model" if not owned else f"uses {shown}, which is no tensor"

    def _function(self, function: FunctionType, shown: str, depth: int, owner: nn.Module | None) -> str:
        file = function.__code__.co_filename
        local = _torch_file(file)
        if local:
            asserts = local == "__init__.py" and function.__name__.startswith(("_assert", "sym_"))
            applied = local == "autograd/function.py" and not self.traced  # the activation's own backward goes with it
            if not asserts and not applied and not local.startswith(_THIN):
                return f"calls {shown} (torch/{local})"
            return f"asks {shown}" if self.traced and function.__name__ in _ASKING else ""
        if _standard(file):
            return "" if file.endswith(_STANDARD_FREE) else f"calls {shown}"
        if self.traced:  # `refusing_losses` sees it when it is called, with its arguments
            return ""
        names = function.__code__.co_freevars
        closure = {n: c.cell_contents for n, c in zip(names, function.__closure__ or (), strict=True) if _filled(c)}
        return self.code(function.__code__, function.__globals__, closure, owner, depth + 1)

    def _class(self, value: type, shown: str) -> str:
        if issubclass(value, torch.autograd.Function):
            return f"calls {shown}, which has a backward of its own" if self.traced else ""
        if (value.__module__ + ".").startswith("torch."):
            free = value.__module__.startswith(("torch.nn", "torch.functional")) or issubclass(value, Tensor)
            return "" if free or value.__module__ == "torch._C" else f"uses {shown}"
        if value.__module__ == "builtins":
            return f"asks {shown}" if self.traced and value is type else ""
        return "" if self.traced or issubclass(value, (nn.Module, tuple, BaseException)) else f"calls {shown}"

    def _builtin(self, value: Any, shown: str) -> str:
        name, module = getattr(value, "__name__", ""), getattr(value, "__module__", None)
        if module == "builtins" and name in _IMPURE_BUILTINS:
            return f"calls {shown}"
        if self.traced and name in _ASKING:
            return f"asks {shown}"
        if str(module).startswith("torch"):
            if name.startswith(_SETTING):
                return f"calls {shown}"
            return f"asks {shown}" if self.traced and name.startswith(_STATE) else ""
        held = getattr(value, "__self__", None)
        if isinstance(held, (list, dict, set)) and name in _MUTATING:
            return f"changes {shown.rpartition('.')[0]}, an object outside the model"
        return "" if module in _PURE_MODULES and not _stateful(held) else f"calls {shown}"


def _stateful(held: Any) -> bool:
    """True for the object of a bound builtin such as random.random."""
    return not (held is None or isinstance(held, (ModuleType, type, *_NUMBERS, list, dict, set, tuple, Tensor)))


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _effect(op: str, name: Any, code: CodeType) -> str:
    """What one instruction does to the world outside the function."""
    if op in ("BEFORE_WITH", "SETUP_WITH", "BEFORE_ASYNC_WITH", "WITH_EXCEPT_START"):
        return "has a `with` block"
    if op in ("STORE_ATTR", "DELETE_ATTR") and code.co_name != "__init__":
        return f"sets the attribute {name}"
    if op in ("STORE_GLOBAL", "DELETE_GLOBAL"):
        return f"sets the global {name}"
    if op in ("STORE_DEREF", "DELETE_DEREF") and name in code.co_freevars:
        return f"sets the outer variable {name}"
    if op in ("STORE_SUBSCR", "DELETE_SUBSCR"):
        return "sets an entry of an object"
    return ""


def _attribute(value: Any, name: str) -> Any:
    """Read an attribute without running the user's code; `_UNKNOWN` if that is not possible."""
    if isinstance(value, ModuleType):
        return vars(value).get(name, _UNKNOWN)
    if isinstance(value, nn.Module):
        for held in (value._modules, value._parameters, value._buffers, vars(value)):
            if name in held:
                return held[name]
        return inspect.getattr_static(type(value), name, _UNKNOWN)
    if isinstance(value, (type, list, dict, set)):
        return getattr(value, name, _UNKNOWN)
    return _UNKNOWN


def _torch_file(file: str) -> str:
    """Path below torch's own folder, "" for other files."""
    return next((file.removeprefix(root) for root in _TORCH if file.startswith(root)), "")


def _user(code: CodeType) -> bool:
    file = code.co_filename
    return not (_torch_file(file) or file.startswith((_ACTSWAP, "<frozen ")) or _standard(file))


def _standard(file: str) -> bool:
    return file.startswith(_STANDARD) and "site-packages" not in file


@contextmanager
def refusing_losses() -> Iterator[list[Any]]:
    """While torch.fx traces in this block: refuse every function of the user's that does more than a trace keeps.

    Yields:
        A list for the arguments that the traced forward is called with: their lists and dicts may be read, not changed.

    Raises:
        CaptureError: before such a function runs.
    """
    arguments: list[Any] = []
    previous = sys.getprofile()
    checked: set[tuple[CodeType, int]] = set()

    def refuse(code: CodeType, why: str) -> None:
        raise CaptureError(f"a trace of {code.co_name} would lose something", why=f"it {why}")

    def called(frame: FrameType) -> None:
        code, around = frame.f_code, frame.f_back
        if code.co_name == "__del__" or any(getattr(c, "__code__", None) is code for c in gc.callbacks):
            return  # the garbage collector runs at any moment; what it calls is no part of the forward
        if not _user(code):
            if around is not None and _user(around.f_code):
                file, local = code.co_filename, _torch_file(code.co_filename)
                if local.startswith(_SWITCHING):
                    refuse(around.f_code, f"calls {code.co_name} (torch/{local})")
                if _standard(file) and file.endswith(_EFFECTS):
                    refuse(around.f_code, f"calls {code.co_name} of {os.path.basename(file)}")
            return
        held = frame.f_locals
        first = held.get(code.co_varnames[0]) if code.co_argcount else None
        owner = first if isinstance(first, nn.Module) else None
        if (code, id(owner)) in checked:
            return
        closure = {name: held[name] for name in code.co_freevars if name in held}
        lost = losses(code, frame.f_globals, closure, owner, traced=True)
        if lost:
            refuse(code, lost)
        checked.add((code, id(owner)))

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            called(frame)
        elif event == "c_call" and getattr(argument, "__name__", "") in _MUTATING and _user(frame.f_code):
            held = getattr(argument, "__self__", None)
            if any(held is c for c in _containers(arguments)):
                refuse(frame.f_code, f"changes a {type(held).__name__} that is passed to it")

    sys.setprofile(profile)
    try:
        yield arguments
    finally:
        sys.setprofile(previous)


def _containers(tree: Any) -> Iterator[Any]:
    stack: list[Any] = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, (list, dict, set)):
            yield item
        if isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item
