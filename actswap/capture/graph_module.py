"""The graphs of a GraphModule, edited where they stand.

A GraphModule makes its forward from its graph again and again (`recompile`, deepcopy, pickle), and torchvision's
feature extractors hold one graph for training and one for evaluation. So the graphs themselves are exchanged; the old
ones stay in `meta`, which copies of the module keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

_OLD = "_actswap_graphs"


def exchange_graphs(module: fx.GraphModule, edit: Callable[[fx.Graph], fx.Graph]) -> None:
    """Replace every graph of a GraphModule by `edit(graph)`; nothing is changed if that fails."""
    old = {name: held for name, held in vars(module).items() if isinstance(held, fx.Graph)}
    edited = {id(graph): edit(graph) for graph in old.values()}
    _set(module, {name: edited[id(graph)] for name, graph in old.items()})
    _meta(module).setdefault(_OLD, []).append(old)


def restore_graphs(module: fx.GraphModule) -> None:
    """Undo the last `exchange_graphs`, if there was any."""
    kept = _meta(module).get(_OLD)
    if kept:
        _set(module, kept.pop())
        if not kept:
            del module.meta[_OLD]


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
