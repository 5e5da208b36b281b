"""Where an activation stands in the source: the expression that computes it, and the part of that which is its input.

`x * torch.sigmoid(self.alpha * x)` is a multiplication at a known place; the operations it is made of were observed at
places inside it, and their operands say which part is read as x. Cases:

1. The operations stand in one expression of one method of the owner.
2. The expression calls a function of the user's, which does nothing but this activation.
3. Earlier statements compute parts of a formula: `s = torch.sigmoid(x)`, then `x * s`. They go with it, if nothing else
   reads what they assign.
4. The expression passes the activation function on: `checkpoint(F.relu, x)`. The function is exchanged.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import CodeType

from actswap.capture.canonical import is_number, name_of
from actswap.capture.exchange import argument_of
from actswap.capture.spots import Callee, Place, Spot
from actswap.capture.syntax import parsed
from actswap.capture.tape import Op, Ref
from actswap.errors import CaptureError

_OPERANDS = ("input", "other")
_NO_METHOD = "no expression in a method of its module makes the call"
_NOT_ONE = "the formula is not one expression of one method"


class CalledFunctions:
    """What the user's own functions do in an observed run: the operations of each run of a function."""

    def __init__(self, ops: Iterable[Op]) -> None:
        self._ops: dict[int, list[Op]] = defaultdict(list)
        for op in ops:
            if op.spot is not None and op.spot.callee is not None:
                self._ops[op.spot.callee.run].append(op)

    def does_more(self, callee: Callee, ops: Sequence[Op]) -> bool:
        """True if this run of a function makes other operations than `ops`."""
        return {op.index for op in self._ops[callee.run]} != {op.index for op in ops}


def spot_of_call(spot: Spot | None, inplace: bool) -> Spot | str:
    """Return the spot of a module call, or the reason why it is none that can be exchanged."""
    if spot is None:
        return _NO_METHOD
    if spot.callee is not None:
        return f"{spot.callee.code.co_name} calls it, which is no method of its module"
    return replace(_with_beside(passed_on(spot), ()), inplace=inplace)


def spot_of_ops(root: Op, ops: Sequence[Op], x: int, functions: CalledFunctions) -> Spot | str:
    """Return the spot of an activation, or the reason why there is none.

    Args:
        root: the operation that returns the result.
        ops: all operations of the activation, `root` among them.
        x: number of the value that it is a function of.
        functions: what the user's functions do.
    """
    spot = root.spot
    if spot is None:
        return _NO_METHOD
    if spot.callee is not None:
        return _whole_call(spot, spot.callee, ops, x, functions)
    if spot.through:
        return passed_on(spot)
    found = _spelled(root, spot, ops, x)
    if found is None and len(ops) == 1:
        found = _with_beside(spot, [spot.place])
    if found is None:
        return _NOT_ONE
    read = _read_around(found) if len(ops) > 1 else ""
    return f"the formula also reads {read}, which may change" if read else replace(found, inplace=root.inplace)


def _whole_call(spot: Spot, callee: Callee, ops: Sequence[Op], x: int, functions: CalledFunctions) -> Spot | str:
    """Case 2: the place of the call, and of the argument that is the input."""
    name = callee.code.co_name
    for op in ops:
        if op.spot is None or op.spot.callee is None or op.spot.callee.run != callee.run:
            return f"a part of it is computed outside {name}"
    if functions.does_more(callee, ops):
        return f"{name} calls it, which is no method of its module and does more"
    if callee.loses:
        return f"{name} calls it, which {callee.loses}"
    if spot.through:
        return f"it is called by torch/{spot.through}, not by the module's own expression"
    node = _expressions(spot.code).get(spot.place)
    at = [i for i, value in enumerate(callee.passed) if value == x]
    if not isinstance(node, ast.Call) or len(at) != 1 or any(isinstance(a, ast.Starred) for a in node.args):
        return f"the call of {name} shows no tensor that it acts on"
    parameter = callee.code.co_varnames[at[0]]
    hidden = int(callee.code.co_varnames[0] in ("self", "cls", "ctx") and callee.passed[0] == -1)  # not in the call
    named = [k.value for k in node.keywords if k.arg == parameter]
    given = node.args[at[0] - hidden : at[0] - hidden + 1] or named
    if not given:
        return f"the call of {name} shows no tensor that it acts on"
    return _with_beside(replace(spot, argument=_place(given[0], spot.code)), [spot.place])


def passed_on(spot: Spot) -> Spot:
    """Case 4: the place of the function that the expression passes on; any other spot as it is."""
    node = _expressions(spot.code).get(spot.place)
    if not spot.through or not isinstance(node, ast.Call) or not node.args:
        return spot
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called != "checkpoint" or not isinstance(node.args[0], (ast.Name, ast.Attribute, ast.Subscript)):
        return spot
    return replace(spot, place=_place(node.args[0], spot.code), reference=True)


def _spelled(root: Op, spot: Spot, ops: Sequence[Op], x: int) -> Spot | None:
    """Cases 1 and 3: the place of a formula, of its input, and of what else belongs to it."""
    places = []
    for op in ops:
        if op.spot is None or (op.spot.code, op.spot.frame) != (spot.code, spot.frame) or op.spot.callee is not None:
            return None
        places.append(op.spot.place)
    nodes = _expressions(spot.code)
    reads = [parts for op in ops if op.spot is not None for parts in _reading(nodes.get(op.spot.place), op, x)]
    common = set.intersection(*({ast.dump(part) for part in parts} for parts in reads)) if reads else set()
    if spot.place not in nodes or len(common) != 1:
        return None
    found = next(part for part in reads[0] if ast.dump(part) in common)
    if len(reads) > 1 and not isinstance(found, ast.Name):
        return None  # what is computed for every use may differ from use to use
    spot = replace(spot, argument=_place(found, spot.code))
    if all(_inside(place, spot.place) for place in places):
        return _with_beside(spot, places)
    return _with_earlier(spot, places, found) if root.spot is not None and isinstance(found, ast.Name) else None


def _read_around(spot: Spot) -> str:
    """The attribute of the module that scales or shifts the whole formula, "" if none does.

    Constants inside (`x * sigmoid(self.beta * x)`) are the activation's own, as the slope of a LeakyReLU is.
    """
    owner = spot.code.co_varnames[0]
    node: ast.AST | None = _expressions(spot.code).get(spot.place)
    while isinstance(node, ast.BinOp):
        sides = {side: {n.id for n in ast.walk(side) if isinstance(n, ast.Name)} for side in (node.left, node.right)}
        around = [side for side, names in sides.items() if names <= {owner} and not _calls(side)]
        if len(around) != 1:
            return ""
        (side,) = around
        if sides[side]:
            return ast.unparse(side)
        node = next(other for other in sides if other is not side)
    return ""


def _calls(node: ast.AST) -> bool:
    return any(isinstance(n, ast.Call) for n in ast.walk(node))


def _with_earlier(spot: Spot, places: Sequence[Place], x: ast.Name) -> Spot | None:
    """Case 3: name the earlier statements, if they are part of the formula and of nothing else."""
    function = _parsed(spot.code)
    block = next((b for b in _blocks(function) if any(_holds(s, spot) for s in b)), None)
    if block is None:
        return None
    last = next(i for i, s in enumerate(block) if _holds(s, spot))
    first, gone = last, []
    for i, statement in enumerate(block[:last]):
        mine = [p for p in places if _inside(p, _place(statement, spot.code))]
        if mine:
            first = min(first, i)
            target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
            if not isinstance(target, ast.Name) or _others(statement, mine, spot.code):
                return None
            gone.append((statement, target.id))
    around = [_place(s, spot.code) for s, _ in gone] + [spot.place]
    if any(not any(_inside(p, a) for a in around) for p in places):
        return None
    stores = [n.id for s in block[first:last] for n in ast.walk(s) if isinstance(n, ast.Name) and _stored(n)]
    if x.id in stores:
        return None
    for _, name in gone:
        uses = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name]
        inside = [n for n in uses if any(_inside(_place(n, spot.code), a) for a in around)]
        if len(inside) != len(uses) or sum(_stored(n) for n in uses) != 1:
            return None
    return _with_beside(replace(spot, drop=tuple(_place(s, spot.code) for s, _ in gone)), places)


def _stored(name: ast.Name) -> bool:
    return not isinstance(name.ctx, ast.Load)


def _blocks(function: ast.AST) -> Iterable[list[ast.stmt]]:
    for node in ast.walk(function):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                yield block


def _holds(statement: ast.stmt, spot: Spot) -> bool:
    """True for the innermost statement around a place; a compound statement holds its blocks, not their expressions."""
    compound = any(True for _ in _blocks(statement) if _)
    return _inside(spot.place, _place(statement, spot.code)) and not compound


def _others(statement: ast.AST, places: Sequence[Place], code: CodeType) -> bool:
    """True if a statement calls anything beside the operations at `places`."""
    return any(isinstance(n, ast.Call) and _place(n, code) not in places for n in ast.walk(statement))


def _with_beside(spot: Spot, places: Sequence[Place]) -> Spot:
    """Name the parts of the expression that call something else; they are still evaluated."""
    if spot.reference:
        return spot
    node = _expressions(spot.code).get(spot.place)
    if node is None:
        return spot
    try:
        argument = (
            next((n for n in ast.walk(node) if _place_or_none(n, spot.code) == spot.argument), None)
            if spot.argument is not None
            else argument_of(node, None)
        )
    except CaptureError:
        return spot
    found: list[Place] = []

    def search(part: ast.AST) -> None:
        for child in ast.iter_child_nodes(part):
            if child is argument:
                continue
            acts = isinstance(child, (ast.Call, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom))
            if acts and _place(child, spot.code) not in places and not any(n is argument for n in ast.walk(child)):
                found.append(_place(child, spot.code))
            else:
                search(child)

    search(node)
    return replace(spot, beside=tuple(found))


def _place(node: ast.AST, code: CodeType) -> Place:
    """Place of a node of `_expressions` in its file."""
    place = _place_or_none(node, code)
    assert place is not None
    return place


def _place_or_none(node: ast.AST, code: CodeType) -> Place | None:
    if getattr(node, "end_lineno", None) is None:
        return None
    first, indent = code.co_firstlineno - 1, _indent(code)
    lines = node.lineno + first, node.end_lineno + first  # type: ignore[attr-defined]
    return (*lines, node.col_offset + indent, node.end_col_offset + indent)  # type: ignore[attr-defined]


def _inside(place: Place, around: Place) -> bool:
    (line, end_line, column, end_column), (first, last, left, right) = place, around
    return (first, left) <= (line, column) and (end_line, end_column) <= (last, right)


@functools.lru_cache(1024)
def _lines(code: CodeType) -> tuple[str, ...]:
    try:
        return tuple(inspect.getsourcelines(code)[0])
    except (OSError, TypeError):
        return ("",)


def _indent(code: CodeType) -> int:
    return len(_lines(code)[0]) - len(_lines(code)[0].lstrip())


@functools.lru_cache(256)
def _parsed(code: CodeType) -> ast.AST:
    try:
        return parsed(textwrap.dedent("".join(_lines(code))))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


@functools.lru_cache(256)
def _expressions(code: CodeType) -> Mapping[Place, ast.expr]:
    """All expressions of a function by their place in its file; the outermost if several share one."""
    found: dict[Place, ast.expr] = {}
    for node in ast.walk(_parsed(code)):
        place = _place_or_none(node, code)
        if isinstance(node, ast.expr) and place is not None:
            found.setdefault(place, node)
    return found


def _reading(node: ast.expr | None, op: Op, x: int) -> list[list[ast.expr]]:
    """For every operand of an operation that is the value x: the parts of its expression that this may be.

    There is one, but for `2 * x` and `x * 2`, which are one operation.
    """
    operands: list[ast.expr] = []
    if isinstance(node, ast.BinOp):
        operands = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp):
        operands = [node.operand]
    elif isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
    elif isinstance(node, ast.Call):
        operands = list(node.args)
        if op.form == "method" and isinstance(node.func, ast.Attribute) and not _of_a_library(node.func.value, op):
            operands = [node.func.value, *operands]
        if Ref(x) in op.args.values() and _called(node) not in (None, op.name):
            return [operands]  # torch's own Python makes several operations of it: any operand may be x
    names = ("condition", *_OPERANDS) if op.name == "where" else _OPERANDS
    if isinstance(node, ast.BinOp) and any(is_number(op.args.get(name)) for name in names):
        either = [part for part in operands if not isinstance(part, ast.Constant)]
        return [either] * (Ref(x) in (op.args.get(name) for name in names))
    return [[part] for name, part in zip(names, operands, strict=False) if op.args.get(name) == Ref(x)]


def _of_a_library(node: ast.expr, op: Op) -> bool:
    """True for `F` in `F.tanh(x)`, which is written in Python and calls the method of x: a name from outside."""
    while isinstance(node, ast.Attribute):
        node = node.value
    if op.spot is None or not isinstance(node, ast.Name):
        return False
    code = op.spot.code
    return node.id not in (*code.co_varnames, *code.co_cellvars, *code.co_freevars)


def _called(node: ast.Call) -> str | None:
    """The canonical name of the function or method that an expression calls."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    return None if name is None else name_of(name)[0]
