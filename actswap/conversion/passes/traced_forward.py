"""The graphs of an island, in which the chosen activation calls go to children of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

from torch import Tensor, fx, nn

from actswap.capture.arguments import Arguments
from actswap.capture.island import Graph, Traced, Variant, compile_graph, forward_of, graph_ops, share_constants
from actswap.errors import CaptureError
from actswap.plan import Choice, Island
from actswap.recognize.matches import Match, find, single_calls


def traced_forward_of(
    owner: nn.Module, island: Island, chosen: Mapping[int, Choice], traced: Sequence[Traced]
) -> tuple[FunctionType, dict[str, Tensor]]:
    """Return the forward that calls the children of the chosen sites, and the constants of its graphs."""
    constants: dict[str, Tensor] = {}
    variants = [
        _variant(owner, island, arguments, modes, chosen, constants)
        for arguments, modes in zip(island.calls, traced, strict=True)
    ]
    return forward_of(owner, variants, island.owner), constants


def _variant(
    owner: nn.Module,
    island: Island,
    arguments: Arguments,
    traced: Traced,
    chosen: Mapping[int, Choice],
    constants: dict[str, Tensor],
) -> Variant:
    label = island.owner or type(owner).__name__

    def compiled(graph: Graph, mode: str) -> Callable[..., Any]:
        graph = graph.copy()
        redirect(graph, owner, island, chosen)
        share_constants(graph, constants)
        graph.graph.lint()
        return compile_graph(graph.graph, f"{label} {mode}")

    evaluate = compiled(traced.evaluate, "eval")
    return Variant(arguments, evaluate, evaluate if traced.train is None else compiled(traced.train, "train"))


def matches(traced: Graph, owner: nn.Module, island: Island) -> list[tuple[int, Match | None, fx.Node]]:
    """Return the activation calls of a graph in order: the position, the match (None for a child), the node.

    Raises:
        CaptureError: they are not those that were observed.
    """
    graph = traced.graph
    ops, values = graph_ops(traced, owner)
    nodes = list(graph.nodes)
    called = {c for c in island.children if c}
    returned = [nodes.index(n) for n in graph.output_node().all_input_nodes]
    activated = [i for i, n in enumerate(nodes) if n.op == "call_module" and n.target in called]
    formulas = find(ops, values, returned, chains=bool({"formula", "pau"} & set(island.sources)), activated=activated)
    found: list[tuple[int, Match | None, fx.Node]] = [(m.root.index, m, m.root.node) for m in formulas]
    found += [(i, None, n) for i, n in enumerate(nodes) if n.op == "call_module" and n.target in called]
    found.sort(key=lambda entry: entry[0])
    seen = [str(n.target) if m is None else m.source.kind for _, m, n in found]
    if seen != _labels(island):
        # A plan made before a formula was recognised as a whole names the calls inside it.
        roots = {i for i, _, _ in found}
        inner = [(m.root.index, m, m.root.node) for m in single_calls(ops, values) if m.root.index not in roots]
        every = sorted([*found, *inner], key=lambda entry: entry[0])
        kinds = [str(n.target) if m is None else m.source.kind for _, m, n in every]
        chosen = only_way(kinds, _labels(island))
        if chosen is not None:
            return [every[i] for i in chosen]
        raise CaptureError(
            f"the trace of {island.owner or type(owner).__name__} does not show the activation calls that really ran",
            why=f"observed {', '.join(_labels(island)) or 'none'}; traced {', '.join(seen) or 'none'}",
        )
    return found


def only_way(kinds: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Return the positions at which `wanted` stands in `kinds`, in order, if there is exactly one way to choose them.

    >>> only_way(["relu", "relu2", "tanh"], ["relu", "tanh"]), only_way(["relu", "relu"], ["relu"])
    ([0, 2], None)
    """

    def leftmost(kinds: Sequence[str], wanted: Sequence[str]) -> list[int]:
        found: list[int] = []
        for i, kind in enumerate(kinds):
            if len(found) < len(wanted) and kind == wanted[len(found)]:
                found.append(i)
        return found

    first = leftmost(kinds, wanted)
    last = [len(kinds) - 1 - i for i in leftmost(kinds[::-1], wanted[::-1])][::-1]
    return first if first == last and len(first) == len(wanted) else None


def redirect(traced: Graph, owner: nn.Module, island: Island, chosen: Mapping[int, Choice]) -> None:
    """Let every chosen activation call of the graph go to the child at its path."""
    graph = traced.graph
    found = matches(traced, owner, island)
    nodes = list(graph.nodes)
    order = {node: i for i, node in enumerate(nodes)}
    standing = {}  # the call of the new child at every choice; as a reader of its input it follows every redirection
    for ordinal, choice in chosen.items():
        _, match, node = found[ordinal]
        x = nodes[match.x] if match is not None else node.args[0] if node.args else next(iter(node.kwargs.values()))
        with graph.inserting_before(node):
            standing[ordinal] = graph.call_module(local(choice.path, island), (x,))
        order[standing[ordinal]] = order[node]
    gone: set[fx.Node] = set()
    for ordinal, choice in chosen.items():
        _, match, node = found[ordinal]
        new = standing[ordinal]
        x = new.args[0]
        node.replace_all_uses_with(new)
        if match is None:
            graph.erase_node(node)
        else:
            _erase(graph, match, gone)
        if choice.site.inplace and isinstance(x, fx.Node):
            for user in [u for u in x.users if u is not new and order[u] > order[node]]:
                user.replace_input_with(x, new)


def _erase(graph: fx.Graph, match: Match, gone: set[fx.Node]) -> None:
    """Remove what the formula was made of, as far as nothing else reads it."""
    for op in sorted(match.ops, key=lambda o: o.index, reverse=True):
        if not op.node.users and op.node not in gone:
            gone.add(op.node)
            graph.erase_node(op.node)


def _labels(island: Island) -> list[str]:
    return [child or kind for kind, child in zip(island.sources, island.children, strict=True)]


def local(path: str, island: Island) -> str:
    """A path of the model, below the owner."""
    return path.removeprefix(f"{island.owner}.") if island.owner else path
