"""Where a formula stands in the source: the one expression that spells it, and the part of that which is its input.

`x * torch.sigmoid(self.alpha * x)` is a multiplication at a known place; the operations it is made of were observed at
places inside it, and their operands say which part is read as x.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import CodeType

from actswap.capture.canonical import is_number
from actswap.capture.rewrite import Place, Spot
from actswap.capture.tape import Op, Ref

_OPERANDS = ("input", "other")


def formula_spot(root: Op, ops: Sequence[Op], x: int) -> Spot | None:
    """Return the place of a formula and of its input, or None where it is not one expression of one method.

    Args:
        root: the operation that returns the result.
        ops: all operations of the formula, `root` among them.
        x: number of the value that the formula is a function of.
    """
    spot = root.spot
    if spot is None or spot.argument is not None:
        return None
    for op in ops:
        if op.spot is None or (op.spot.code, op.spot.frame) != (spot.code, spot.frame):
            return None
        if not _inside(op.spot.place, spot.place):
            return None
    nodes = _expressions(spot.code)
    reads = [parts for op in ops if op.spot is not None for parts in _reading(nodes.get(op.spot.place), op, x)]
    common = set.intersection(*({ast.dump(part) for part in parts} for parts in reads)) if reads else set()
    if spot.place not in nodes or len(common) != 1:
        return None
    found = next(part for part in reads[0] if ast.dump(part) in common)
    if len(reads) > 1 and not isinstance(found, ast.Name):
        return None  # what is computed for every use may differ from use to use
    return replace(spot, argument=next(place for place, node in nodes.items() if node is found))


def _inside(place: Place, around: Place) -> bool:
    (line, end_line, column, end_column), (first, last, left, right) = place, around
    return (first, left) <= (line, column) and (end_line, end_column) <= (last, right)


def _expressions(code: CodeType) -> Mapping[Place, ast.expr]:
    """All expressions of a function by their place in its file; the outermost where several share one."""
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError):
        return {}
    indent = len(lines[0]) - len(lines[0].lstrip())
    found: dict[Place, ast.expr] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and node.end_lineno is not None and node.end_col_offset is not None:
            columns = node.col_offset + indent, node.end_col_offset + indent
            found.setdefault((node.lineno + first - 1, node.end_lineno + first - 1, *columns), node)
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
        method = [node.func.value] if op.form == "method" and isinstance(node.func, ast.Attribute) else []
        operands = [*method, *node.args]
    names = ("condition", *_OPERANDS) if op.name == "where" else _OPERANDS
    if isinstance(node, ast.BinOp) and any(is_number(op.args.get(name)) for name in names):
        either = [part for part in operands if not isinstance(part, ast.Constant)]
        return [either] * (Ref(x) in (op.args.get(name) for name in names))
    return [[part] for name, part in zip(names, operands, strict=False) if op.args.get(name) == Ref(x)]
