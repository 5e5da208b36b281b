"""Pass `isolate`: give every chosen activation call a module of its own that computes what the call computed.

Requires: a model as the user wrote it. Ensures: same function, same class, same parameter names; at the path of every
choice stands a `SourceModule` that is called once per run of its owner, out of place.

Cases:
1. The owner calls a child once: the child is swapped.
2. The owner calls a child several times, a function, a method or a formula: the owner becomes an island, its traced
   forward calls one new child per site.
3. A function kept in an attribute under the new child's name: the child stands at `name@0`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx, nn

from actswap.activations.plain import SourceModule
from actswap.capture.island import Arguments, Variant, compile_graph, graph_ops, install, trace
from actswap.errors import CaptureError
from actswap.plan import Choice, Island
from actswap.recognize.matches import Match, find


def isolate_swap(model: nn.Module, choice: Choice) -> None:
    """Case 1: put a SourceModule where the activation module stands."""
    set_module(model, choice.path, SourceModule(choice.site.source, choice.site.channel_dim))


def check_island(model: nn.Module, island: Island) -> None:
    """Raise CaptureError where `isolate_island` would; the model is not changed."""
    for arguments in island.calls:
        _variant(model.get_submodule(island.owner), island, arguments, {})


def isolate_island(model: nn.Module, island: Island, choices: Sequence[Choice]) -> None:
    """Cases 2 and 3: trace the owner, put SourceModules at the chosen calls, and give it the traced forward.

    Raises:
        CaptureError: the forward cannot be traced, or the trace does not show the observed activation calls. The model
            is then unchanged.
    """
    owner = model.get_submodule(island.owner)
    paths = {c.site.ordinal: c.path.removeprefix(f"{island.owner}.") for c in choices}
    variants = [_variant(owner, island, arguments, paths) for arguments in island.calls]
    for choice in choices:
        set_module(model, choice.path, SourceModule(choice.site.source, choice.site.channel_dim))
    install(owner, variants, island.owner)


def _variant(owner: nn.Module, island: Island, arguments: Arguments, paths: Mapping[int, str]) -> Variant:
    graphs: dict[bool, fx.Graph] = {}
    for training in (False, True):
        graph = trace(owner, arguments, frozenset(island.inline), training)
        _redirect(graph, owner, island, paths)
        graph.lint()
        graphs[training] = graph
    evaluate = compile_graph(graphs[False], f"{island.owner or type(owner).__name__} eval")
    same = graphs[False].python_code("self").src == graphs[True].python_code("self").src
    train = evaluate if same else compile_graph(graphs[True], f"{island.owner or type(owner).__name__} train")
    return Variant(arguments, evaluate, train)


def _redirect(graph: fx.Graph, owner: nn.Module, island: Island, paths: Mapping[int, str]) -> None:
    """Let every chosen activation call of the graph go to the child at its path."""
    ops, values = graph_ops(graph, owner)
    nodes = list(graph.nodes)
    called = {c for c in island.children if c}
    matches: list[tuple[int, Match | None, fx.Node]] = [(m.root.index, m, m.root.node) for m in find(ops, values)]
    matches += [(i, None, n) for i, n in enumerate(nodes) if n.op == "call_module" and n.target in called]
    matches.sort(key=lambda entry: entry[0])
    traced = [str(n.target) if m is None else m.source.kind for _, m, n in matches]
    if traced != _labels(island):
        raise CaptureError(
            f"the trace of {island.owner or type(owner).__name__} does not show the activation calls that really ran",
            why=f"observed {', '.join(_labels(island)) or 'none'}; traced {', '.join(traced) or 'none'}",
        )
    order = {node: i for i, node in enumerate(nodes)}
    for ordinal, path in paths.items():
        _, match, node = matches[ordinal]
        if match is None:
            x, inplace = node.args[0], True
            node.target = path
            new = node
        else:
            x, inplace = nodes[match.x], match.root.inplace
            with graph.inserting_after(node):
                new = graph.call_module(path, (x,))
            node.replace_all_uses_with(new)
            _erase(graph, match)
        if inplace and isinstance(x, fx.Node):
            later = [u for u in x.users if u is not new and order.get(u, -1) > order[node]]
            for user in later:
                user.replace_input_with(x, new)


def _erase(graph: fx.Graph, match: Match) -> None:
    """Remove what the formula was made of, as far as nothing else reads it."""
    for op in sorted(match.ops, key=lambda o: o.index, reverse=True):
        if not op.node.users:
            graph.erase_node(op.node)


def _labels(island: Island) -> list[str]:
    return [child or kind for kind, child in zip(island.sources, island.children, strict=True)]


def set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path below the model; it takes over the mode of its parent."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    module.train(parent.training)
    parent.add_module(name, module)
