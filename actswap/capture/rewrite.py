"""The first way to a call that no swap reaches: rewrite the call expression in the owner's own source.

Control flow, `self.training`, `with` blocks, attributes and everything else of the user's code stay as they are; only
the expression that makes the activation call is exchanged for a call of the new child. The expression is known exactly,
because the observed run tells which bytes of the source it came from (Python 3.11 and newer).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from actswap.capture.alternatives import in_method, other_sides, other_state
from actswap.capture.exchange import Exchange, Rewrite
from actswap.capture.installed import Origin, install_functions
from actswap.capture.methods import functions_named, innermost, method_named, methods_of, rewrapped
from actswap.capture.spots import Place, Spot
from actswap.capture.syntax import compiled, parsed
from actswap.errors import CaptureError

__all__ = ["Method", "Rewrite", "install_rewritten", "plan_rewrites", "rewritten"]


@dataclass(frozen=True)
class Method:
    """A rewritten function: the name under which the owner holds it, as it was, as it is."""

    name: str
    old: Any
    new: FunctionType


def plan_rewrites(
    owner: nn.Module, spots: Sequence[Sequence[Spot | str]], busy: frozenset[tuple[CodeType, Place]] = frozenset()
) -> tuple[tuple[Rewrite, ...], dict[int, str]]:
    """Turn the observed places of the activation calls of one owner into rewrites.

    Args:
        owner: the module.
        spots: for each of its activation calls, the places at which it was seen, or the reason why there is none.
        busy: places that also make calls that are no activation.

    Returns:
        The rewrites, and for each call that they do not reach the reason, by its ordinal.

    Raises:
        CaptureError: no call is reached.
    """
    missed: dict[int, str] = {}
    seen: dict[tuple[CodeType, Place], dict[int, list[int]]] = {}  # ordinals by expression and run of its method
    standing: dict[tuple[CodeType, Place], Spot] = {}
    for ordinal, places in enumerate(spots):
        for spot in places:
            if isinstance(spot, str):
                missed[ordinal] = spot
                continue
            key = spot.code, spot.place
            if standing.setdefault(key, spot).argument != spot.argument:
                missed[ordinal] = "its expression is read in different ways from one run to the next"
            runs = seen.setdefault(key, {})
            runs.setdefault(spot.frame, []).append(ordinal)
    found: list[tuple[Rewrite, tuple[int, ...]]] = []
    for key, runs in seen.items():
        sequence = tuple(sorted(runs.values(), key=len)[-1])
        try:
            if any(tuple(other) != sequence[: len(other)] for other in runs.values()):
                raise CaptureError(f"{key[0].co_name} runs more than once in one forward: its calls look alike")
            if key in busy:
                raise CaptureError("its expression also makes calls that are no activation")
            found.append((_rewrite(owner, standing[key], sequence), sequence))
        except CaptureError as error:
            missed.update(dict.fromkeys((o for other in runs.values() for o in other), error.what))
    # A call that is reached in some of its runs only is not reached.
    rewrites = [rewrite for rewrite, sequence in found if not any(o in missed for o in sequence)]
    kept = {o for rewrite in rewrites for o in rewrite.ordinals}
    for _, sequence in found:
        missed.update({o: _partner(missed, sequence) for o in sequence if o not in kept})
    if not rewrites:
        raise CaptureError("; ".join(dict.fromkeys(missed.values())) or "it makes no call")
    return (*rewrites, *_alternatives(owner, rewrites, busy)), missed


def _alternatives(
    owner: nn.Module, rewrites: Sequence[Rewrite], busy: frozenset[tuple[CodeType, Place]]
) -> list[Rewrite]:
    """The same calls in another state of the module; see `alternatives`."""
    found: list[Rewrite] = []
    for name in dict.fromkeys(r.function for r in rewrites):
        mine = [r for r in rewrites if r.function == name]
        for function in filter(None, map(innermost, functions_named(owner, name))):
            code = function.__code__
            if _digest(_source(function)[0]) != mine[0].digest:
                continue
            ran = {_local(place, code) for other, place in busy if other is code}
            definition = _definition(code)
            candidates = other_sides(definition, mine, frozenset(ran | {r.place for r in mine}))
            for other, state in methods_of(owner):
                if other != name and other_state(other) and state.__code__ not in {c for c, _ in busy}:
                    source, _ = _source(state)
                    candidates += in_method(definition, mine, _definition(state.__code__), other, _digest(source))
            for rewrite in candidates:
                try:
                    rewritten(owner, [rewrite], dict.fromkeys(rewrite.ordinals, "x"))
                except CaptureError:
                    continue  # it stays as it is
                found.append(rewrite)
    return found


def _local(place: Place, code: CodeType) -> Place:
    """A place in a file, from the first line and the indentation of a function."""
    line, end_line, column, end_column = place
    first, indent = code.co_firstlineno, _source(code)[1]
    return line - first, end_line - first, column - indent, end_column - indent


def _partner(missed: Mapping[int, str], sequence: Sequence[int]) -> str:
    return next((missed[o] for o in sequence if o in missed), "another call of the same expression is not reached")


def _rewrite(owner: nn.Module, spot: Spot, ordinals: tuple[int, ...]) -> Rewrite:
    if spot.nested and len(ordinals) > 1:
        raise CaptureError(f"a function inside {spot.code.co_name} runs more than once: its calls look alike")
    if spot.through and not spot.reference:
        raise CaptureError(f"it is called by torch/{spot.through}, not by the module's own expression")
    if spot.reference and len(ordinals) > 1:
        raise CaptureError("the function is passed on in a loop: its calls look alike")
    name = method_named(owner, spot.code)
    if name is None:
        raise CaptureError(f"{spot.code.co_name} is no method of {type(owner).__name__}")
    function = next(f for o in functions_named(owner, name) if (f := innermost(o)) and f.__code__ is spot.code)
    source, _ = _source(function)

    def local(place: Place) -> Place:
        return _local(place, spot.code)

    rewrite = Rewrite(
        name,
        _digest(source),
        local(spot.place),
        ordinals,
        None if spot.argument is None else local(spot.argument),
        tuple(local(p) for p in spot.drop),
        tuple(local(p) for p in spot.beside),
        spot.inplace,
        spot.reference,
    )
    rewritten(owner, [rewrite], dict.fromkeys(ordinals, "x"))
    return rewrite


def rewritten(owner: nn.Module, rewrites: Sequence[Rewrite], paths: Mapping[int, str]) -> list[Method]:
    """Return the owner's functions in which the calls of `paths` go to the children named there.

    Raises:
        CaptureError: the source has changed, or the expression is none that can be exchanged.
    """
    methods: list[Method] = []
    for name in dict.fromkeys(r.function for r in rewrites):
        mine = tuple(r for r in rewrites if r.function == name and any(o in paths for o in r.ordinals))
        if not mine:
            continue
        held = [(outer, innermost(outer)) for outer in functions_named(owner, name)]
        if not any(function is not None for _, function in held):
            raise CaptureError(f"{type(owner).__name__} has no method {name}")
        same = ((o, f) for o, f in held if f is not None and all(r.digest == _digest(_source(f)[0]) for r in mine))
        outer, function = next(same, (None, None))
        if function is None:
            raise CaptureError(f"the source of {type(owner).__name__}.{name} has changed since the plan was made")
        local = tuple(sorted((o, paths[o]) for r in mine for o in r.ordinals if o in paths))
        methods.append(Method(name, outer, rewrapped(outer, function, _made(function, mine, local))))
    return methods


def members_of(kind: type, methods: Sequence[Method]) -> dict[str, FunctionType]:
    """Return those of the rewritten functions that are methods of a class, by name."""
    return {m.name: m.new for m in methods if m.old is inspect.getattr_static(kind, m.name, None)}


def install_rewritten(owner: nn.Module, methods: Sequence[Method], origin: Origin) -> None:
    """Let `owner` run rewritten functions where it ran the old ones."""
    install_functions(owner, members_of(type(owner), methods), {m.old: m.new for m in methods}, origin)


def _made(function: FunctionType, rewrites: tuple[Rewrite, ...], paths: tuple[tuple[int, str], ...]) -> FunctionType:
    code = _exchanged(function.__code__, _class_name(function), rewrites, paths)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in code.co_freevars)
    made = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__, made.__qualname__ = function.__kwdefaults__, function.__qualname__
    made.__module__, made.__doc__ = function.__module__, function.__doc__
    made.__dict__.update({k: v for k, v in vars(function).items() if k != "__wrapped__"})
    return made


@functools.lru_cache(1024)
def _exchanged(
    code: CodeType, class_name: str, rewrites: tuple[Rewrite, ...], paths: tuple[tuple[int, str], ...]
) -> CodeType:
    definition = _definition(code)
    if not definition.args.args and not definition.args.posonlyargs:
        raise CaptureError(f"{_shown(code)} does not name its module")
    _check_source(code, class_name)
    first = (*definition.args.posonlyargs, *definition.args.args)[0].arg
    exchange = Exchange(definition, rewrites, dict(paths), first)
    definition.body = [exchange.visit(statement) for statement in definition.body]  # type: ignore[misc]
    if exchange.wanted or exchange.dropped:
        raise CaptureError(f"{_shown(code)} has no plain call at the observed place")
    definition.body[_behind_docstring(definition) : 0] = exchange.queues
    try:
        return _compiled(definition, code, class_name)
    except SyntaxError as error:
        raise CaptureError(f"{_shown(code)} cannot be rewritten at the observed place", why=str(error)) from error


def _behind_docstring(definition: ast.FunctionDef) -> int:
    return int(ast.get_docstring(definition, clean=False) is not None)


def _definition(code: CodeType) -> ast.FunctionDef:
    source, _ = _source(code)
    try:
        (definition,) = parsed(source).body
    except (SyntaxError, ValueError) as error:
        raise CaptureError(f"the source of {_shown(code)} cannot be parsed", why=str(error)) from error
    if not isinstance(definition, ast.FunctionDef):
        raise CaptureError(f"{_shown(code)} is no plain method")
    definition.decorator_list = []  # the decorators are put around the new function as they stand
    return definition


def _check_source(code: CodeType, class_name: str) -> None:
    """Refuse a source that is not what runs: the file has changed since it was imported."""
    again = _compiled(_definition(code), code, class_name)
    # An import hook (pytest's assertions) may add names and instructions; those of the source must all be there.
    if (
        not set(again.co_names) <= set(code.co_names)
        or again.co_varnames[: again.co_argcount] != code.co_varnames[: code.co_argcount]
    ):
        raise CaptureError(f"the source of {_shown(code)} is not what runs: its file has changed")


def _compiled(definition: ast.FunctionDef, code: CodeType, class_name: str) -> CodeType:
    """Compile a definition with the outer variables of `code`, inside a class if it has one, for its private names."""
    arguments = ast.arguments([], [ast.arg(name) for name in code.co_freevars], None, [], [], None, [])
    body: list[ast.stmt] = [definition]
    if class_name:
        body = [ast.ClassDef(class_name, [], [], [definition], [])]
        body[0].type_params = []  # type: ignore[attr-defined]
    outer = ast.FunctionDef("_outer", arguments, body, [], None)
    outer.type_params = []  # type: ignore[attr-defined]
    module = ast.fix_missing_locations(ast.Module([outer], []))
    ast.increment_lineno(module, code.co_firstlineno - 1)
    inner = _code_named(compiled(module, code.co_filename, _flags(code)), "_outer")
    if class_name:
        inner = _code_named(inner, class_name)
    return _code_named(inner, definition.name)


def _flags(code: CodeType) -> int:
    """The `from __future__` imports that the code was compiled with."""
    import __future__

    known = 0
    for name in __future__.all_feature_names:
        known |= int(getattr(__future__, name).compiler_flag)
    return code.co_flags & known


def _shown(code: CodeType) -> str:
    return str(getattr(code, "co_qualname", code.co_name))


def _code_named(code: CodeType, name: str) -> CodeType:
    return next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)


def _class_name(function: FunctionType) -> str:
    """Name of the class in whose body a function is written, "" if it is in none."""
    around = function.__qualname__.split(".")
    return around[-2] if len(around) > 1 and around[-2] != "<locals>" else ""


@functools.lru_cache(4096)
def _lines(code: CodeType) -> tuple[str, int]:
    lines, _ = inspect.getsourcelines(code)  # of the innermost function, its decorators' lines included
    indent = len(lines[0]) - len(lines[0].lstrip())
    return textwrap.dedent("".join(lines)), indent


def _source(function: Any) -> tuple[str, int]:
    """The method's source without its indentation, and the width of that."""
    code = function if isinstance(function, CodeType) else function.__code__
    try:
        return _lines(code)
    except (OSError, TypeError, IndentationError, SyntaxError) as error:
        raise CaptureError(f"the source of {_shown(code)} is unavailable", why=str(error)) from error


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]
