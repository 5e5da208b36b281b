"""The graphs of a GraphModule, edited where they stand.

A GraphModule makes its forward from its graph again and again (`recompile`, deepcopy, pickle), and torchvision's
feature extractors hold one graph for training and one for evaluation. So the graphs themselves are exchanged; the old
ones stay in `meta`, which copies of the module keep and pickles do not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import fx

from actswap.errors import UsageError

_OLD = "_actswap_graphs"
_PRESERVED = "_user_preserved_attributes"  # what a GraphModule's meta lists there, its copies keep


class _Kept(tuple[dict[str, fx.Graph], ...]):
    """Old graphs, the oldest first. A pickle leaves them out: torch cannot pickle graphs of some hundred nodes."""

    def __reduce__(self) -> Any:
        return _Kept, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Kept:
        return self


def exchange_graphs(module: fx.GraphModule, edit: Callable[[fx.Graph], fx.Graph]) -> None:
    """Replace every graph of a GraphModule by `edit(graph)`; nothing is changed if that fails."""
    old = {name: held for name, held in vars(module).items() if isinstance(held, fx.Graph)}
    edited = {id(graph): edit(graph) for graph in old.values()}
    _set(module, {name: edited[id(graph)] for name, graph in old.items()})
    _meta(module)[_OLD] = _Kept((*_meta(module).get(_OLD, ()), old))


def restore_graphs(module: fx.GraphModule) -> None:
    """Undo the last `exchange_graphs`.

    Raises:
        UsageError: the old graphs are not here, because the module was read from a pickle.
    """
    kept = _meta(module).get(_OLD)
    if not kept:
        raise UsageError(
            f"the graph of this {type(module).__name__} before its conversion is not known",
            why="a GraphModule that is pickled keeps only the graph that it runs",
            fix="start from the original model, or save bundles: actswap.save(model, 'folder')",
        )
    copies = {id(graph): copy.deepcopy(graph) for graph in kept[-1].values()}
    _set(module, {name: copies[id(graph)] for name, graph in kept[-1].items()})
    module.meta[_OLD] = _Kept(kept[:-1])


def preserve(module: fx.GraphModule, name: str) -> None:
    """Let deep copies of a GraphModule keep an attribute. Reading a pickle drops this; then it is said again."""
    _meta(module)[_PRESERVED] = {**_meta(module).get(_PRESERVED, {}), name: vars(module)[name]}


def drop(module: fx.GraphModule, name: str) -> None:
    """Undo `preserve`."""
    _meta(module)[_PRESERVED] = {k: v for k, v in _meta(module).get(_PRESERVED, {}).items() if k != name}


def _meta(module: fx.GraphModule) -> dict[str, Any]:
    """The notes of a GraphModule; torchvision's extractors have none at first, but copy them."""
    if "meta" not in vars(module):
        module.meta = {}
    return module.meta


def _set(module: fx.GraphModule, graphs: dict[str, fx.Graph]) -> None:
    for name, graph in graphs.items():
        if name != "_graph":
            setattr(module, name, graph)
    module.graph = graphs["_graph"]  # compiles the forward
