"""Other spellings of a call, for another state of the same module: they go to the same child.

A block may hold the same activation twice, and run one or the other: `F.relu(self.fused(x)) if hasattr(self, "fused")
else F.relu(self.a(x) + self.b(x))`, or a branch for `self.training`. The observed run shows one of them only. If the
other one is left, the trained activation disappears when the block is fused, or is never trained. Cases:

1. The two sides of an `if` whose condition reads the module and nothing else; an early `return` makes the rest of the
   block the other side.
2. A method for the fused module, by its name: `forward_fuse`, `fused`, `forward_deploy`.

One side ran, the other did not, and both make the same calls, equally often, in the same order.
"""

from __future__ import annotations

import ast
import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from actswap.capture.exchange import Rewrite, argument_of, place_of
from actswap.capture.spots import Place

_ASKING = frozenset(("hasattr", "getattr", "isinstance", "bool", "len", "callable"))
_OTHER_STATE = ("fuse", "deploy", "reparam")

Path = tuple[tuple[str, int | None], ...]  # fields and positions from a node to a part of it


def other_sides(function: ast.FunctionDef, rewrites: Sequence[Rewrite], ran: frozenset[Place]) -> list[Rewrite]:
    """Case 1: the rewrites of the sides that did not run.

    Args:
        function: the definition that contains all `rewrites`.
        rewrites: what is rewritten on the sides that ran.
        ran: places of all calls that ran.
    """
    arguments = (*function.args.posonlyargs, *function.args.args)
    owner = arguments[0].arg if arguments else ""
    found: dict[Place, Rewrite] = {}
    for test, one, other in _forks(function):
        if not _reads_only(test, owner):
            continue
        one_ran, other_ran = (any(_within(p, side) for p in ran) for side in (one, other))
        if one_ran != other_ran:
            here, there = (one, other) if one_ran else (other, one)
            inside = [r for r in rewrites if _within(r.place, here)]
            for rewrite in _paired(function, inside, there):
                found.setdefault(rewrite.place, rewrite)
    return list(found.values())


def other_state(name: str) -> bool:
    """Case 2: whether a method of this name stands for forward when the module is fused.

    Examples:
        >>> other_state("forward_fuse"), other_state("forward_head")
        (True, False)
    """
    return any(word in name for word in _OTHER_STATE)


def in_method(
    function: ast.FunctionDef, rewrites: Sequence[Rewrite], method: ast.FunctionDef, name: str, digest: str
) -> list[Rewrite]:
    """Case 2: the rewrites of a method that stands for `function` in another state.

    Args:
        function: the definition that contains all `rewrites`.
        rewrites: what is rewritten in it.
        method: the other definition.
        name: the name under which the owner holds the method.
        digest: of the method's source.
    """
    return [replace(r, function=name, digest=digest) for r in _paired(function, rewrites, method.body)]


def _forks(function: ast.FunctionDef) -> Iterator[tuple[ast.expr, Sequence[ast.AST], Sequence[ast.AST]]]:
    for node in ast.walk(function):
        if isinstance(node, ast.IfExp):
            yield node.test, [node.body], [node.orelse]
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            block = block if isinstance(block, list) else []
            for i, statement in enumerate(block):
                if isinstance(statement, ast.If):
                    leaves = isinstance(statement.body[-1], (ast.Return, ast.Raise))
                    rest = block[i + 1 :] if leaves else []
                    yield statement.test, statement.body, [*statement.orelse, *rest]


def _reads_only(test: ast.expr, owner: str) -> bool:
    names = {n.id for n in ast.walk(test) if isinstance(n, ast.Name)}
    return owner in names and names <= {owner, *_ASKING}


def _within(place: Place, side: Sequence[ast.AST]) -> bool:
    line, end_line, column, end_column = place
    for part in side:
        first, last, left, right = place_of(part)
        if (first, left) <= (line, column) and (end_line, end_column) <= (last, right):
            return True
    return False


def _paired(function: ast.FunctionDef, rewrites: Sequence[Rewrite], there: Sequence[ast.AST]) -> list[Rewrite]:
    """Pair the rewrites of one side with the equal calls of the other, in order, if there are as many."""
    groups: dict[tuple[str, Path], list[Rewrite]] = defaultdict(list)
    for rewrite in sorted(rewrites, key=lambda r: r.place):
        node = next((n for n in ast.walk(function) if isinstance(n, ast.expr) and place_of(n) == rewrite.place), None)
        if node is None or rewrite.drop or rewrite.reference:
            return []
        argument = argument_of(node, rewrite.argument)
        path = next((p for p, part in _parts(node) if part is argument), None)
        if path is not None:
            groups[_shape(node, path), path].append(rewrite)
    found: list[Rewrite] = []
    for (shape, path), mine in groups.items():
        nodes = [n for part in there for n in ast.walk(part) if isinstance(n, ast.expr)]
        equal = sorted((n for n in nodes if _shape(n, path) == shape), key=place_of)
        if len(equal) == len(mine):
            for rewrite, other in zip(mine, equal, strict=True):
                part = _follow(other, path)
                assert part is not None
                found.append(replace(rewrite, place=place_of(other), argument=place_of(part), beside=()))
    return found


def _shape(node: ast.expr, path: Path) -> str:
    """The expression with its input taken out; "" if it has no such part."""
    if _follow(node, path) is None:
        return ""
    copied = copy.deepcopy(node)
    *way, (field, position) = path
    around = _follow(copied, tuple(way))
    if position is None:
        setattr(around, field, ast.Name("_"))
    else:
        getattr(around, field)[position] = ast.Name("_")
    return ast.dump(copied)


def _follow(node: ast.AST, path: Path) -> ast.AST | None:
    for field, position in path:
        part = getattr(node, field, None)
        if position is not None:
            part = part[position] if isinstance(part, list) and position < len(part) else None
        if not isinstance(part, ast.AST):
            return None
        node = part
    return node


def _parts(node: ast.AST, path: Path = ()) -> Iterator[tuple[Path, ast.AST]]:
    for field, value in ast.iter_fields(node):
        for position, part in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(part, ast.AST):
                way = (*path, (field, position))
                yield way, part
                yield from _parts(part, way)
