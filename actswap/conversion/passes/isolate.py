"""Pass `isolate`: give every chosen activation call a module of its own that computes what the call computed.

Requires: a model as the user wrote it. Ensures: same function, same class, same parameter names; at the path of every
choice stands a `SourceModule` that is called once per run of its owner, out of place.

Cases:
1. The owner calls a child once: the child is swapped.
2. The owner calls a child several times, a function, a method or a formula: its source is rewritten at the place of the
   call, which goes to a new child.
3. No single expression makes the call, and the forward does nothing that a trace would lose: the owner becomes an
   island, its traced forward calls one new child per site.
4. The owner is a GraphModule: its graphs are edited.
5. A function kept in an attribute under the new child's name: the child stands at `name@0`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from torch import fx, nn

from actswap.activations.plain import SourceModule, known
from actswap.capture.graph_module import exchange_graphs
from actswap.capture.installed import install_methods
from actswap.capture.island import Graph, Traced, keep_constants, trace
from actswap.capture.rewrite import install_rewritten, members_of, rewritten
from actswap.conversion.passes.fused_kernels import bypass_kernels
from actswap.conversion.passes.reinstall import origin_of
from actswap.conversion.passes.revert import undo
from actswap.conversion.passes.surgery import module_at, set_module, take_hooks
from actswap.conversion.passes.traced_forward import local, matches, redirect, traced_forward_of
from actswap.plan import Choice, Island, Plan

Originals = dict[str, nn.Module | None]


def isolate(model: nn.Module, plan: Plan, traces: Mapping[str, Sequence[Traced]] | None = None) -> Originals:
    """Run the isolate pass for all choices; return what stood at their paths before.

    Args:
        model: changed in place.
        plan: its choices and islands.
        traces: the islands of this model by owner, as far as they have been traced.

    Raises:
        CaptureError: an island cannot be traced. The model is then as it was.
    """
    originals: Originals = {}
    done: list[Island] = []
    bypass_kernels(model, plan)
    try:
        for island in plan.islands:
            chosen = [c for c in plan.choices if c.site.owner == island.owner and c.site.how == "island"]
            originals.update({c.path: module_at(model, c.path) for c in chosen})
            isolate_island(model, island, chosen, (traces or {}).get(island.owner))
            done.append(island)
        for choice in plan.choices:
            if choice.site.how == "swap":
                originals[choice.path] = module_at(model, choice.path)
                isolate_swap(model, choice)
    except Exception:
        undo(model, dataclasses.replace(plan, islands=tuple(done)), originals)
        raise
    return originals


def path_of(model: nn.Module, site_name: str, owner: str, child: str, how: str, shared: bool) -> str:
    """Return where the module of a site will stand.

    A swapped child stays where it is. In an island the module takes the site's own name; if that would overwrite
    something that is still used, `@0` is added.
    """
    below = f"{owner}." if owner else ""
    if how == "swap":
        return below + child if module_at(model, below + child) is not None else child
    local = site_name.removeprefix(below)
    stands = model.get_submodule(owner)
    for part in local.split(".")[:-1]:
        stands = getattr(stands, part)
    taken = hasattr(stands, local.rpartition(".")[2])
    if taken and (shared or child != local):
        local += "@0"
    return below + local


def isolate_swap(model: nn.Module, choice: Choice) -> None:
    """Case 1: put a SourceModule where the activation module stands; one that only it can compute stays."""
    if not known(choice.site.source):
        return
    module = SourceModule(choice.site.source, choice.site.channel_dim)
    take_hooks(module, model.get_submodule(choice.path))
    set_module(model, choice.path, module)


def check_island(model: nn.Module, island: Island) -> list[Traced]:
    """Trace an island in all the ways in which it is called; the model is not changed.

    Raises:
        CaptureError: `isolate_island` would.
    """
    owner = model.get_submodule(island.owner)
    if island.rewrites:
        rewritten(owner, island.rewrites, {o: "x" for r in island.rewrites for o in r.ordinals})
    if isinstance(owner, fx.GraphModule):
        for graph in vars(owner).values():
            if isinstance(graph, fx.Graph):
                matches(Graph(graph, {}), owner, island)
        return []
    found = [trace(owner, arguments, frozenset(island.inline)) for arguments in island.calls]
    for traced in found:
        for graph in (traced.evaluate, traced.train):
            if graph is not None:
                matches(graph, owner, island)
    return found


def isolate_island(
    model: nn.Module, island: Island, choices: Sequence[Choice], traced: Sequence[Traced] | None = None
) -> None:
    """Cases 2 to 4: put SourceModules at the chosen calls, and let the owner's forward call them.

    Args:
        model: changed in place.
        island: its owner.
        choices: the chosen calls.
        traced: what `check_island` returned for this model, if it was called before.

    Raises:
        CaptureError: the forward cannot be traced, or the trace does not show the observed activation calls. The model
            is then unchanged.
    """
    owner = model.get_submodule(island.owner)
    chosen = {c.site.ordinal: c for c in choices}
    if isinstance(owner, fx.GraphModule):
        _isolate_graphs(owner, island, chosen)
        return
    if traced is None:
        traced = [trace(owner, arguments, frozenset(island.inline), strict=False) for arguments in island.calls]
    traced_forward = traced_forward_of(owner, island, chosen, traced) if traced else None
    methods = rewritten(owner, island.rewrites, {o: local(c.path, island) for o, c in chosen.items()})
    _put(owner, island, choices)
    if traced_forward is not None:
        forward, constants = traced_forward
        keep_constants(owner, constants)
        install_methods(owner, {"forward": forward}, origin_of(["forward"], island, choices))
    else:
        install_rewritten(owner, methods, origin_of(members_of(type(owner), methods), island, choices))


def _put(owner: nn.Module, island: Island, choices: Iterable[Choice]) -> None:
    """Put a SourceModule at the path of every choice."""
    for choice in choices:
        module = SourceModule(choice.site.source, choice.site.channel_dim)
        if choice.site.child:
            take_hooks(module, owner.get_submodule(choice.site.child))
        set_module(owner, local(choice.path, island), module)


def _isolate_graphs(owner: fx.GraphModule, island: Island, chosen: Mapping[int, Choice]) -> None:
    """Case 4: edit the graphs of a GraphModule; the new children must stand before they are compiled."""

    def edited(graph: fx.Graph) -> fx.Graph:
        copied = Graph(copy.deepcopy(graph), {})
        redirect(copied, owner, island, chosen)
        copied.graph.lint()
        return copied.graph

    for graph in {id(g): g for g in vars(owner).values() if isinstance(g, fx.Graph)}.values():
        matches(Graph(graph, {}), owner, island)
    _put(owner, island, chosen.values())
    exchange_graphs(owner, edited)
