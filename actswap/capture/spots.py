"""Where in the owner's source an observed call stands.

The interpreter knows which bytes of the source every running frame is at (Python 3.11 and newer). From an operation
outwards, the first frame that runs a method of the owner, or a function, lambda or comprehension written inside one,
shows the expression that makes the call. A frame of somebody else's function in between means that the expression calls
that function; then the expression is the activation only if all that the function does belongs to it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import torch
from torch import Tensor, nn

from actswap.capture.losses import losses
from actswap.capture.methods import method_around, method_named, method_of_class

_TORCH = tuple(f"{p}/" for p in torch.__path__)
_WATCHING = str(Path(__file__).parent)  # the watching of the run
_CALL = nn.Module._call_impl.__code__
_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_IMMEDIATE = frozenset(("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"))
# torch's own Python that passes a call on and does nothing else.
_THIN: tuple[str, ...] = ("nn/functional.py", "functional.py", "_tensor.py", "_jit_internal.py", "overrides.py")
_THIN += ("_ops.py", "nn/modules/", "ao/nn/", "autograd/function.py", "_functorch/")
_FARTHEST = 128  # frames between an operation and its owner

Place = tuple[int, int, int, int]  # line, end line, column, end column


@dataclass(frozen=True)
class Callee:
    """A function, not of the owner, that the expression calls and in which an operation happens.

    Attributes:
        run: which run of a function this is, unique in the observed forward pass.
        code: the function's code.
        passed: numbers of the values that its parameters were, -1 for what is no tensor.
        loses: what would be lost if the call were replaced as a whole, "" if nothing.
    """

    run: int
    code: CodeType
    passed: tuple[int, ...]
    loses: str


@dataclass(frozen=True)
class Spot:
    """Where an observed call stands: the method it ran in, its place in the source, and which run of that method.

    Attributes:
        code: code of the owner's method in whose source the expression is written.
        place: of the expression, in its file.
        frame: which run of the method, unique in the observed forward pass.
        argument: of a formula that is spelled out: the place of its input.
        drop: of a formula in several statements: the places of the others.
        beside: places of parts of the expression that have nothing to do with the activation.
        inplace: the call overwrites its input.
        reference: the expression is the function itself, passed to another that calls it.
        nested: the expression is in a function or lambda inside the method, which may run at any later time.
        through: file of torch's own Python that the expression calls and that calls the operation, "" if none does.
        callee: the function that the expression calls, None if it calls the operation itself.
    """

    code: CodeType
    place: Place
    frame: int
    argument: Place | None = None
    drop: tuple[Place, ...] = ()
    beside: tuple[Place, ...] = ()
    inplace: bool = False
    reference: bool = False
    nested: bool = False
    through: str = ""
    callee: Callee | None = None


class Spots:
    """Finds spots during one observed run.

    Frames are kept, so that two runs of a function can be told apart; their variables are released when they end.
    """

    def __init__(self, number: Callable[[Tensor], int]) -> None:
        self._number = number
        self._runs: dict[int, tuple[FrameType, int]] = {}
        self._running: list[FrameType] = []
        self._found: dict[int, tuple[FrameType, nn.Module, tuple[CodeType, int, bool] | None]] = {}
        self._callees: dict[int, Callee] = {}

    def spot(self, frame: FrameType | None, owner: nn.Module) -> Spot | None:
        """Return the spot of what `frame` is doing now, None if no method of the owner is running."""
        below: FrameType | None = None
        foreign: FrameType | None = None
        for _ in range(_FARTHEST):
            if frame is None or (frame.f_code is _CALL and frame.f_locals.get("self") is owner):
                return None
            method = self._method(frame, owner)
            if method is not None:
                place = _position(frame.f_code, frame.f_lasti)
                if place is None:
                    return None
                code, run, nested = method
                through = "" if below is None else _thick(below.f_code)
                callee = None if foreign is None else self._callee(foreign)
                return Spot(code, place, run, nested=nested, through=through, callee=callee)
            if not _transparent(frame.f_code):
                foreign = frame
            below, frame = frame, frame.f_back
        return None

    def _method(self, frame: FrameType, owner: nn.Module) -> tuple[CodeType, int, bool] | None:
        """Code and run of the owner's method that a frame belongs to, and whether the frame is one inside it."""
        known = self._found.get(id(frame))
        if known is not None and known[0] is frame and known[1] is owner:
            return known[2]
        code = frame.f_code
        if _runs_method(frame, owner):
            found = code, self._run(frame), False
            self._found[id(frame)] = frame, owner, found
            return found
        if _transparent(code):
            return None
        around = method_around(owner, code)
        outer = frame.f_back
        while around is not None and outer is not None:
            if outer.f_code is around and _runs_method(outer, owner):
                self._run(frame)  # keeps it
                found = around, self._run(outer), code.co_name not in _IMMEDIATE
                self._found[id(frame)] = frame, owner, found
                return found
            outer = outer.f_back
        return None

    def _run(self, frame: FrameType) -> int:
        known = self._runs.get(id(frame))
        if known is not None:
            return known[1]
        still: list[FrameType] = []
        for f in self._running:
            try:
                f.clear()
            except RuntimeError:
                still.append(f)
        self._running = still
        if not frame.f_code.co_flags & _SUSPENDED:  # clearing a suspended generator would end it
            self._running.append(frame)
        self._runs[id(frame)] = frame, len(self._runs)
        return self._runs[id(frame)][1]

    def _callee(self, frame: FrameType) -> Callee:
        run = self._run(frame)
        if run not in self._callees:
            code, names = frame.f_code, frame.f_locals
            values = [names.get(name) for name in code.co_varnames[: code.co_argcount]]
            passed = tuple(self._number(v) if isinstance(v, Tensor) else -1 for v in values)
            closure = {name: names[name] for name in code.co_freevars if name in names}
            self._callees[run] = Callee(run, code, passed, losses(code, frame.f_globals, closure))
        return self._callees[run]


def _runs_method(frame: FrameType, owner: nn.Module) -> bool:
    code = frame.f_code
    if not code.co_argcount or (_transparent(code) and method_of_class(type(owner), code) is None):
        return False
    if method_named(owner, code) is None:
        return False
    return frame.f_locals.get(code.co_varnames[0]) is owner


@functools.lru_cache(8192)
def _transparent(code: CodeType) -> bool:
    """True for torch's own Python, and for the watching of the run."""
    return code.co_filename.startswith((*_TORCH, _WATCHING))


@functools.lru_cache(8192)
def _thick(code: CodeType) -> str:
    """Name torch's own Python that does more than to pass a call on: checkpoint, a compiler's wrapper."""
    for root in _TORCH:
        if code.co_filename.startswith(root):
            local = code.co_filename.removeprefix(root)
            return "" if local.startswith(_THIN) else local
    return ""


@functools.lru_cache(1024)
def _positions(code: CodeType) -> tuple[tuple[int | None, ...], ...]:
    return tuple(code.co_positions()) if hasattr(code, "co_positions") else ()


def _position(code: CodeType, instruction: int) -> Place | None:
    known = _positions(code)
    if instruction // 2 >= len(known):
        return None
    line, end_line, column, end_column = known[instruction // 2]
    if line is None or end_line is None or column is None or end_column is None:
        return None
    return line, end_line, column, end_column
