"""The second way to a call that torch.fx cannot reach: rewrite the call expression in the owner's own source.

Control flow, `self.training`, `*args` and everything else of the user's code stay as they are; only the expression that
makes the activation call is exchanged for a call of the new child. The expression is known exactly, because the
observed run tells which bytes of the source it came from (Python 3.11 and newer).
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch import nn

from actswap.errors import CaptureError

# Between the owner and an operation there may be torch's own Python, and the watching of the run.
_TRANSPARENT = (*(f"{p}/" for p in torch.__path__), str(Path(__file__).parent))

Place = tuple[int, int, int, int]  # line, end line, column, end column


@dataclass(frozen=True)
class Spot:
    """Where an observed call stands: the code it ran in, its place in the source, and which run of that code.

    For a formula that is spelled out, `argument` is the place of its input inside the expression.
    """

    code: CodeType
    place: Place
    frame: int
    argument: Place | None = None


@dataclass(frozen=True)
class Rewrite:
    """One expression to exchange.

    Attributes:
        function: the method of the owner's class that holds it.
        digest: of the method's source, checked before it is rewritten.
        place: line, end line, column, end column, from the method's first line and indentation.
        ordinals: the activation calls it makes, in order: more than one where it stands in a loop.
        argument: of a formula: where its input stands; a call shows its own.
    """

    function: str
    digest: str
    place: Place
    ordinals: tuple[int, ...]
    argument: Place | None = None


def spot_of(frame: FrameType | None, owner: nn.Module, frames: list[FrameType]) -> Spot | None:
    """Find the innermost frame that runs a method of `owner`, and the expression it is at."""
    for _ in range(24):
        if frame is None:
            return None
        code = frame.f_code
        if code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is owner and hasattr(code, "co_positions"):
            line, end_line, column, end_column = list(code.co_positions())[frame.f_lasti // 2]
            if line is None or end_line is None or column is None or end_column is None:
                return None
            if not any(f is frame for f in frames):
                frames.append(frame)
            number = next(i for i, f in enumerate(frames) if f is frame)
            return Spot(code, (line, end_line, column, end_column), number)
        if not code.co_filename.startswith(_TRANSPARENT):
            return None  # a free function, a lambda: the owner's expression does more than the activation
        frame = frame.f_back
    return None


def plan_rewrites(owner: nn.Module, spots: Sequence[Spot | None]) -> tuple[tuple[Rewrite, ...], dict[int, str]]:
    """Turn the observed places of the activation calls of one owner into rewrites.

    Returns:
        The rewrites, and for each call that they do not reach the reason, by its ordinal.

    Raises:
        CaptureError: no call is reached.
    """
    grouped: dict[tuple[CodeType, Place, Place | None], list[int]] = {}
    frames: dict[CodeType, set[int]] = {}
    missed: dict[int, str] = {}
    for ordinal, spot in enumerate(spots):
        if spot is None:
            missed[ordinal] = "the call is not one expression in a method of its module"
        else:
            grouped.setdefault((spot.code, spot.place, spot.argument), []).append(ordinal)
            frames.setdefault(spot.code, set()).add(spot.frame)
    found = []
    for (code, place, argument), ordinals in grouped.items():
        try:
            if len(frames[code]) > 1:
                raise CaptureError(f"{code.co_name} runs more than once in one forward: its calls look alike")
            name = _method_name(type(owner), code)
            source, indent = _source(_inner(getattr(type(owner), name)))
            local = [_shifted(p, code.co_firstlineno, indent) for p in (place, argument) if p is not None]
            rewrite = Rewrite(name, _digest(source), local[0], tuple(ordinals), *local[1:])
            rewritten(owner, [rewrite], dict.fromkeys(ordinals, "x"))
        except CaptureError as error:
            missed.update(dict.fromkeys(ordinals, error.what))
        else:
            found.append(rewrite)
    if not found:
        raise CaptureError("; ".join(dict.fromkeys(missed.values())))
    return tuple(found), missed


def _shifted(place: Place, lines: int, columns: int) -> Place:
    return (place[0] - lines, place[1] - lines, place[2] - columns, place[3] - columns)


def rewritten(owner: nn.Module, rewrites: Sequence[Rewrite], paths: Mapping[int, str]) -> dict[str, FunctionType]:
    """Return new methods for the owner's class, in which the calls of `paths` go to the children named there.

    Raises:
        CaptureError: the source has changed, or the expression is none that can be exchanged.
    """
    methods: dict[str, FunctionType] = {}
    for name in dict.fromkeys(r.function for r in rewrites):
        outer = getattr(type(owner), name, None)
        function = _inner(outer)
        if function is None:
            raise CaptureError(f"{type(owner).__name__} has no method {name}")
        source, _ = _source(function)
        mine = [r for r in rewrites if r.function == name and any(o in paths for o in r.ordinals)]
        if any(r.digest != _digest(source) for r in mine):
            raise CaptureError(f"the source of {type(owner).__name__}.{name} has changed since the plan was made")
        if mine:
            methods[name] = _rewrapped(outer, function, _recompiled(function, source, mine, paths))
    return methods


class _Exchange(ast.NodeTransformer):
    """Replace the expressions at known places."""

    def __init__(self, rewrites: Sequence[Rewrite], paths: Mapping[int, str], owner: str) -> None:
        self.wanted = {r.place: r for r in rewrites}
        self.paths, self.owner = paths, owner
        self.iterators: list[ast.stmt] = []

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """A bare in-place call: its result takes the place of its input."""
        call = node.value
        node = self.generic_visit(node)  # type: ignore[assignment]
        if node.value is not call and isinstance(node.value, ast.Call):
            (target,) = node.value.args
            if isinstance(target, ast.Name):
                return ast.Assign(targets=[ast.Name(target.id, ast.Store())], value=node.value)
        return node

    def visit(self, node: ast.AST) -> Any:
        """Exchange the expression where it is one of those wanted."""
        wanted = isinstance(node, (ast.Call, ast.BinOp, ast.UnaryOp))
        rewrite = self.wanted.pop(_place_of(node), None) if wanted else None
        if rewrite is None:
            return super().visit(node)
        original = copy.deepcopy(node)
        argument = self.visit(_argument_of(node, rewrite))
        children = [self._child(o) if o in self.paths else _unchanged(original, rewrite) for o in rewrite.ordinals]
        if len(children) == 1:
            called = children[0]
        else:
            name = f"_actswap_{len(self.iterators)}"
            each = ast.Call(ast.Name("iter", ast.Load()), [ast.Tuple(children, ast.Load())], [])
            self.iterators.append(ast.Assign(targets=[ast.Name(name, ast.Store())], value=each))
            # A loop may run longer on other inputs: the last child then serves the further rounds too.
            rest = [ast.Name(name, ast.Load()), copy.deepcopy(children[-1])]
            called = ast.Call(ast.Name("next", ast.Load()), rest, [])
        return ast.Call(called, [argument], [])

    def _child(self, ordinal: int) -> ast.expr:
        found: ast.expr = ast.Name(self.owner, ast.Load())
        for part in self.paths[ordinal].split("."):
            found = ast.Call(ast.Name("getattr", ast.Load()), [found, ast.Constant(part)], [])
        return found


def _argument_of(node: ast.AST, rewrite: Rewrite) -> ast.expr:
    """The input of a wanted expression, as a part of it."""
    if rewrite.argument is not None:
        for part in ast.walk(node):
            if isinstance(part, ast.expr) and _place_of(part) == rewrite.argument:
                return part
    elif isinstance(node, ast.Call):
        return _argument(node)
    raise CaptureError("the expression shows no input at the observed place")


def _unchanged(node: Any, rewrite: Rewrite) -> ast.expr:
    """The expression as a function of its input: a round of a loop that is not replaced."""
    node = copy.deepcopy(node)
    argument = _argument_of(node, rewrite)
    name = argument.id if isinstance(argument, ast.Name) else "_actswap_x"
    if not isinstance(argument, ast.Name):
        node = _Put(argument, ast.Name(name, ast.Load())).visit(node)
    arguments = ast.arguments([], [ast.arg(name)], None, [], [], None, [])
    return ast.Lambda(arguments, node)


class _Put(ast.NodeTransformer):
    """Put one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.expr) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        """Exchange the one node."""
        return self.new if node is self.old else super().visit(node)


def _place_of(node: Any) -> Place:
    return (node.lineno - 1, node.end_lineno - 1, node.col_offset, node.end_col_offset)


def _argument(call: ast.Call) -> ast.expr:
    """The tensor an activation call acts on: its first argument, `input=`, or what a method is called on."""
    if call.args:
        return call.args[0]
    for keyword in call.keywords:
        if keyword.arg in ("input", "x"):
            return keyword.value
    if isinstance(call.func, ast.Attribute):
        return call.func.value
    raise CaptureError("the call shows no tensor that it acts on")


def _recompiled(
    function: FunctionType, source: str, rewrites: Sequence[Rewrite], paths: Mapping[int, str]
) -> FunctionType:
    tree = ast.parse(source)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []  # the decorators are put around the new function as they stand
    exchange = _Exchange(rewrites, paths, definition.args.args[0].arg)
    definition.body = [exchange.visit(statement) for statement in definition.body]
    if exchange.wanted:
        raise CaptureError(f"{function.__qualname__} has no plain call at the observed place")
    definition.body[:0] = exchange.iterators
    free = function.__code__.co_freevars
    arguments = ast.arguments([], [ast.arg(name) for name in free], None, [], [], None, [])
    outer = ast.FunctionDef("_outer", arguments, [definition], [], None)
    outer.type_params = []  # type: ignore[attr-defined]
    module = ast.fix_missing_locations(ast.Module([outer], []))
    ast.increment_lineno(module, function.__code__.co_firstlineno - 1)
    compiled = compile(module, function.__code__.co_filename, "exec")
    inner = _code_named(_code_named(compiled, "_outer"), function.__name__)
    cells = dict(zip(free, function.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in inner.co_freevars)
    made = FunctionType(inner, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__, made.__qualname__ = function.__kwdefaults__, function.__qualname__
    return made


def _code_named(code: CodeType, name: str) -> CodeType:
    return next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)


def _method_name(owner: type, code: CodeType) -> str:
    found = _inner(getattr(owner, code.co_name, None))
    if found is None or found.__code__ is not code:
        raise CaptureError(f"{code.co_name} is no method of {owner.__name__}")
    return code.co_name


def _inner(function: Any) -> FunctionType | None:
    """The function that decorators made with functools.wraps stand around."""
    unwrapped = inspect.unwrap(function) if callable(function) else None
    return unwrapped if isinstance(unwrapped, FunctionType) else None


def _rewrapped(outer: Any, old: FunctionType, new: FunctionType) -> FunctionType:
    """Put `new` where the decorators hold `old`.

    Raises:
        CaptureError: a decorator keeps it somewhere else than in its closure.
    """
    if outer is old:
        return new
    if not isinstance(outer, FunctionType) or not outer.__closure__:
        raise CaptureError(f"the decorator of {old.__qualname__} hides it")
    inner = outer.__wrapped__ if hasattr(outer, "__wrapped__") else old
    replaced = _rewrapped(inner, old, new)
    cells = tuple(CellType(replaced) if _holds(c, inner) else c for c in outer.__closure__)
    if cells == outer.__closure__:
        raise CaptureError(f"the decorator of {old.__qualname__} hides it")
    made = FunctionType(outer.__code__, outer.__globals__, outer.__name__, outer.__defaults__, cells)
    made.__kwdefaults__ = outer.__kwdefaults__
    return functools.update_wrapper(made, replaced)  # type: ignore[return-value]


def _holds(cell: CellType, function: Any) -> bool:
    try:
        return cell.cell_contents is function
    except ValueError:  # an empty cell
        return False


def _source(function: Any) -> tuple[str, int]:
    """The method's source without its indentation, and the width of that."""
    try:
        lines, _ = inspect.getsourcelines(function)  # of the innermost function, its decorators' lines included
    except (OSError, TypeError) as error:
        raise CaptureError(f"the source of {function.__qualname__} is not to be had", why=str(error)) from error
    indent = len(lines[0]) - len(lines[0].lstrip())
    return textwrap.dedent("".join(lines)), indent


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]
