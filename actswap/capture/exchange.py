"""Exchange expressions in the source of a function: a call of an activation becomes a call of a child module.

Everything else of the function stays: control flow, `with` blocks, attributes, private names, other calls.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actswap.capture.spots import Place
from actswap.errors import CaptureError


@dataclass(frozen=True)
class Rewrite:
    """One expression to exchange.

    Attributes:
        function: the name under which the owner holds the function that contains it.
        digest: of the function's source, checked before it is rewritten.
        place: line, end line, column, end column, from the function's first line and indentation.
        ordinals: the activation calls it makes, in order: more than one if it stands in a loop.
        argument: of a formula: the place of its input; a call shows its own.
        drop: of a formula in several statements: the places of the statements before the last, which go.
        beside: places of the parts that have nothing to do with the activation and are still evaluated.
        inplace: the call overwrites its input: a variable that is the input holds the result afterwards.
        reference: the expression is the function itself, passed to another that calls it: `checkpoint(F.relu, x)`.
    """

    function: str
    digest: str
    place: Place
    ordinals: tuple[int, ...]
    argument: Place | None = None
    drop: tuple[Place, ...] = ()
    beside: tuple[Place, ...] = ()
    inplace: bool = False
    reference: bool = False


class Exchange(ast.NodeTransformer):
    """Replace the expressions at known places.

    Args:
        function: the function's definition.
        rewrites: what to replace.
        paths: path of the child below the owner by ordinal; calls without a path stay.
        owner: name of the variable that is the owner.

    Attributes:
        wanted: the rewrites not met yet.
        queues: statements for the head of the function: the children of an expression in a loop, last first.
    """

    def __init__(
        self, function: ast.FunctionDef, rewrites: Sequence[Rewrite], paths: Mapping[int, str], owner: str
    ) -> None:
        self.original = copy.deepcopy(function)
        self.wanted = {r.place: r for r in rewrites}
        self.dropped = {p for r in rewrites for p in r.drop}
        self.paths, self.owner = paths, owner
        self.queues: list[ast.stmt] = []
        self._inside = 0  # comprehensions around the node: they cannot assign to their own variables

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """A bare in-place call: its result takes the place of its input."""
        call = node.value
        rewrite = self.wanted.get(place_of(call))
        node = self.generic_visit(node)  # type: ignore[assignment]
        value = node.value
        if rewrite is not None and value is not call and isinstance(value, ast.Call) and len(value.args) == 1:
            (target,) = value.args
            if isinstance(target, (ast.Name, ast.Attribute, ast.Subscript)):
                stored = copy.deepcopy(target)
                stored.ctx = ast.Store()
                if isinstance(target, ast.Subscript):  # the target keeps its input for the backward pass
                    value.args = [ast.Call(ast.Attribute(target, "clone", ast.Load()), [], [])]
                return ast.Assign(targets=[stored], value=value)
        return node

    def visit(self, node: ast.AST) -> object:
        """Exchange the expression if it is one of those wanted."""
        if isinstance(node, ast.stmt) and self.dropped and place_of(node) in self.dropped:
            self.dropped.discard(place_of(node))
            return ast.Pass()
        rewrite = self.wanted.get(place_of(node)) if isinstance(node, ast.expr) else None
        if rewrite is None or not (rewrite.reference or isinstance(node, (ast.Call, ast.BinOp, ast.UnaryOp))):
            comprehension = isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp))
            self._inside += comprehension
            visited = super().visit(node)
            self._inside -= comprehension
            return visited
        del self.wanted[rewrite.place]
        if rewrite.reference:
            return self._child(rewrite.ordinals[0])
        original = copy.deepcopy(node)
        beside = [part for part in ast.walk(node) if place_of(part) in rewrite.beside and isinstance(part, ast.expr)]
        argument = self.visit(argument_of(node, rewrite.argument, self.original))
        assert isinstance(argument, ast.expr)
        called: ast.expr = ast.Call(self._called(original, rewrite), [argument], [])
        if rewrite.inplace and isinstance(argument, ast.Name) and not self._inside:
            called = ast.NamedExpr(ast.Name(argument.id, ast.Store()), called)
        if beside:  # what else the expression calls is still called
            parts = [*(self.visit(part) for part in beside), called]
            called = ast.Subscript(ast.Tuple(parts, ast.Load()), ast.Constant(-1), ast.Load())  # type: ignore[arg-type]
        return called

    def _called(self, original: ast.AST, rewrite: Rewrite) -> ast.expr:
        children = [self._child(o) if o in self.paths else _unchanged(original, rewrite) for o in rewrite.ordinals]
        if len(children) == 1:
            return children[0]
        # A list needs no name from the user's globals. A loop may run longer on other inputs: then the last one serves.
        name = f"_actswap_{len(self.queues)}"
        queue = ast.List(children[::-1], ast.Load())
        self.queues.append(ast.Assign(targets=[ast.Name(name, ast.Store())], value=queue))
        popped = ast.Call(ast.Attribute(ast.Name(name, ast.Load()), "pop", ast.Load()), [], [])
        return ast.IfExp(ast.Name(name, ast.Load()), popped, copy.deepcopy(children[-1]))

    def _child(self, ordinal: int) -> ast.expr:
        found: ast.expr = ast.Name(self.owner, ast.Load())
        for part in self.paths[ordinal].split("."):
            modules = ast.Attribute(found, "_modules", ast.Load())
            found = ast.Subscript(modules, ast.Constant(part), ast.Load())
        return found


def place_of(node: ast.AST) -> Place:
    """Place of a node in the source it was parsed from, lines counted from 0."""
    if getattr(node, "end_lineno", None) is None:
        return (-1, -1, -1, -1)
    return (node.lineno - 1, node.end_lineno - 1, node.col_offset, node.end_col_offset)  # type: ignore[attr-defined]


def argument_of(node: ast.AST, argument: Place | None, function: ast.AST | None = None) -> ast.expr:
    """The input of an expression: a part of it or of its function at a known place, or the tensor that a call acts on.

    Raises:
        CaptureError: it shows none.
    """
    if argument is not None:
        for part in (*ast.walk(node), *(ast.walk(function) if function is not None else ())):
            if isinstance(part, ast.expr) and place_of(part) == argument:
                return part
    elif isinstance(node, ast.Call):
        if node.args and not isinstance(node.args[0], ast.Starred):
            return node.args[0]
        for keyword in node.keywords:
            if keyword.arg in ("input", "x"):
                return keyword.value
        if isinstance(node.func, ast.Attribute) and not node.args:
            return node.func.value
        raise CaptureError("the call shows no tensor that it acts on")
    raise CaptureError("the expression shows no input at the observed place")


def _unchanged(node: ast.AST, rewrite: Rewrite) -> ast.expr:
    """The expression as a function of its input: a round of a loop that is not replaced."""
    copied: Any = copy.deepcopy(node)
    argument = argument_of(copied, rewrite.argument)
    name = argument.id if isinstance(argument, ast.Name) else "_actswap_x"
    if not isinstance(argument, ast.Name):
        copied = _Put(argument, ast.Name(name, ast.Load())).visit(copied)
    return ast.Lambda(ast.arguments([], [ast.arg(name)], None, [], [], None, []), copied)


class _Put(ast.NodeTransformer):
    """Put one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.expr) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> object:
        """Exchange the one node."""
        return self.new if node is self.old else super().visit(node)
