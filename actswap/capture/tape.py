"""The tape: the record of one forward pass, as plain data.

A tape is a list of operations on numbered values, and the tree of module calls that made them. The same `Op` also
describes an fx graph (see `island`), so that one recognizer reads both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from actswap.capture.spots import Spot


class Ref(NamedTuple):
    """A tensor argument, given by the number of its value."""

    id: int


@dataclass(frozen=True)
class Value:
    """One tensor: its shape, and the tensor itself if it is a constant of the model (parameter, buffer, literal).

    `name` is the full name of a parameter or buffer; in a graph the name below the graph's module.
    """

    shape: tuple[int, ...]
    floating: bool
    constant: Tensor | None = None
    name: str = ""


@dataclass(frozen=True)
class Op:
    """One tensor operation.

    Attributes:
        index: position in the run.
        name: canonical name (`relu`, `mul`, `sigmoid`), see `recognize.canonical`.
        args: arguments by name, tensors as `Ref`.
        outs: numbers of the tensors it returns.
        inplace: True if it overwrites its first argument.
        call: number of the module call it happened in.
        line: `file:line` of the user's code.
        form: `function` or `method`.
        node: the fx node, if the op comes from a graph.
        spot: the place of the call in the source, if the run was observed with places.
    """

    index: int
    name: str
    args: dict[str, Any]
    outs: tuple[int, ...]
    inplace: bool = False
    call: int = 0
    line: str = ""
    form: str = "function"
    node: Any = None
    spot: Spot | None = None

    def refs(self) -> Iterator[int]:
        """Yield the numbers of all tensor arguments."""
        stack = list(self.args.values())
        while stack:
            item = stack.pop(0)
            if isinstance(item, Ref):
                yield item.id
            elif isinstance(item, (tuple, list)):
                stack[:0] = item
            elif isinstance(item, dict):
                stack[:0] = item.values()


@dataclass
class Call:
    """One call of one module's forward.

    Attributes:
        index: number of the call; 0 is the model itself.
        module: the module called.
        parent: number of the call it was made from, -1 for the model.
        name: fully qualified name, None if the module is not registered in the model.
        inputs, outputs: numbers of the tensors passed in and returned, in order.
        ops: first and last operation index inside (half open).
        args, kwargs: the arguments with every tensor replaced by `Ref`.
        line: `file:line` of the caller.
        spot: the place of the call in the caller's source.
    """

    index: int
    module: nn.Module
    parent: int
    name: str | None
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    ops: tuple[int, int] = (0, 0)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    line: str = ""
    spot: Spot | None = None


@dataclass
class Tape:
    """One observed forward pass.

    Attributes:
        ops, values, calls: what happened.
        outputs: numbers of the tensors it returned.
        results: copies of those tensors.
        scripted: (number of the module call, operation name) of each operation that TorchScript ran.
    """

    ops: list[Op] = field(default_factory=list)
    values: dict[int, Value] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    outputs: tuple[int, ...] = ()
    results: tuple[Tensor, ...] = ()
    scripted: list[tuple[int, str]] = field(default_factory=list)

    def producers(self) -> dict[int, Op]:
        """Map each value to the operation that made it."""
        return producers_of(self.ops)

    def consumers(self) -> dict[int, list[Op]]:
        """Map each value to the operations that read it, in order."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for ref in op.refs():
                found.setdefault(ref, []).append(op)
        return found

    def ancestors(self, call: int) -> Iterator[int]:
        """Yield a call and the calls around it, innermost first."""
        while call >= 0:
            yield call
            call = self.calls[call].parent


def producers_of(ops: Iterable[Op]) -> dict[int, Op]:
    """Map each value to the operation that made it; `x.to(x.dtype)` returns x itself and makes nothing."""
    return {out: op for op in ops for out in op.outs if out not in op.refs()}
