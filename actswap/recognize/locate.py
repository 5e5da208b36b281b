"""From a tape to sites: who makes each activation call, under which name, at which width.

Cases of a match, in this order:
1. All of it happens inside one module that does nothing else: the module is the activation, its caller the owner.
2. It happens in the forward of a module: a function, a method, or a formula of the owner.
3. The module is not registered in the model (made in forward, kept in a list, a global): as 2, in the nearest
   registered module around it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import CodeType

from torch import nn

from actswap.capture.formula_source import CalledFunctions, passed_on, spot_of_call, spot_of_ops
from actswap.capture.losses import losses_of
from actswap.capture.spots import Place, Spot
from actswap.capture.tape import Call, Tape
from actswap.recognize.channels import ChannelFinder, common_width
from actswap.recognize.dynamic import MODULES, activations_of
from actswap.recognize.matches import Match
from actswap.recognize.reading import Constants
from actswap.recognize.roles import on_features, role
from actswap.recognize.trained import stays
from actswap.sites import Form, How, Role, Site, Source

_CLAMPS = frozenset(("clamp", "maximum", "minimum", "fmax", "fmin", "where", "masked_fill", "neg"))
RECURRENT = "the activations run inside torch's recurrent kernel, where nothing can be put"
SCRIPT = "it runs inside TorchScript, where nothing can be put: build the model without torch.jit"
_SCRIPTED = frozenset(("relu", "gelu", "silu", "elu", "selu", "celu", "leaky_relu", "hardtanh", "hardswish", "mish"))
_SCRIPTED |= {"prelu", "softplus", "sigmoid", "tanh", "hardsigmoid"}


@dataclass
class _Place:
    """All runs of one call site: the same position in the forward of the same owner."""

    owner: str
    ordinal: int
    matches: list[Match] = field(default_factory=list)
    called: list[Call | None] = field(default_factory=list)


@dataclass(frozen=True)
class Located:
    """What a tape says about one owner: every activation-like call in order, and the module calls it was seen in.

    Attributes:
        sites: the sites of this owner in order; None stands for a clamp that is not an activation.
        sources: the source at each position, also if there is no site.
        when: for each position, the operation on the tape that first made the call.
        runs: numbers of the owner's calls on the tape.
        inline: children of the owner in which a part of one of its formulas happens.
        spots: for each position, where its runs stand in the source, or why that is not known.
        busy: places in the source that also make calls which are no activation.
    """

    owner: str
    sites: tuple[Site | None, ...]
    sources: tuple[Source, ...]
    when: tuple[int, ...]
    runs: tuple[int, ...]
    inline: tuple[str, ...] = ()
    spots: tuple[tuple[Spot | str, ...], ...] = ()
    busy: frozenset[tuple[CodeType, Place]] = frozenset()


def locate(model: nn.Module, tape: Tape) -> list[Located]:
    """Group the activations of a tape by owner and turn them into sites, in the order in which they first run."""
    names = dict(model.named_modules())
    producers, consumers, finder = tape.producers(), tape.consumers(), ChannelFinder(tape)
    constants = Constants(producers, tape.values)
    places = _places(tape, constants)
    parts = _longer(places)
    taken: Counter[str] = Counter()
    instance_sites: dict[int, set[tuple[str, int]]] = defaultdict(set)
    for place in places:
        for called in place.called:
            if called is not None:
                instance_sites[id(called.module)].add((place.owner, place.ordinal))
    whole = Counter(id(c.module) for place in places for c in place.called if c is not None)
    runs_of = Counter(id(c.module) for c in tape.calls)
    elsewhere = {module for module, count in whole.items() if runs_of[module] != count}
    located: dict[str, list[tuple[_Place, Site | None]]] = {}
    for place in places:
        match = place.matches[0]
        doubtful = match.root.name in _CLAMPS or bool(match.source.formula)
        if doubtful and not on_features(match, tape, producers, consumers, constants):
            located.setdefault(place.owner, []).append((place, None))
            continue
        site = _site(place, names, finder, instance_sites, elsewhere)
        site = replace(site, role=role(match, tape, consumers, constants, parts.get(match.root.index, set())))
        if match.source.kind == "glu":
            site = replace(
                site, how="left", reason="F.glu: the gate of a gated linear unit; its linear half is no site"
            )
        elif match.source.kind.startswith("actswap."):
            site = replace(site, how="left", reason="already converted by actswap")
        elif match.source.kind in MODULES and site.how != "swap":
            site = replace(site, how="left", reason="a module with layers of its own, called more than once")
        elif match.source.kind == "prelu" and not match.source.params:
            site = replace(site, how="left", reason="its slopes are on the meta device, where they have no values")
        else:
            modules = [c for c in place.called if c is not None]
            shared = any(len(instance_sites[id(c.module)]) > 1 or id(c.module) in elsewhere for c in modules)
            why = stays(match.source, modules[0].name if len(modules) == len(place.called) else None, shared)
            site = replace(site, how="left", reason=why) if why else site
        base, count = site.name, taken[site.name]
        taken[base] += 1
        site = replace(site, name=f"{base}@{count}" if count else base)
        located.setdefault(place.owner, []).append((place, site))
    functions, events = CalledFunctions(tape.ops), _events(tape)
    runs = defaultdict(list)
    for call in tape.calls:
        if call.name is not None:
            runs[call.name].append(call.index)
    found = []
    for owner, entries in located.items():
        entries.sort(key=lambda e: e[0].ordinal)
        sites = tuple(site for _, site in entries)
        inline = tuple(dict.fromkeys(c for place, _ in entries for c in _parts(place, names[owner], tape)))
        sources = tuple(p.matches[0].source for p, _ in entries)
        when = tuple(p.matches[0].root.index for p, _ in entries)
        spots = tuple(_spots(p, functions) for p, _ in entries)
        busy = _busy([p for p, _ in entries], spots, runs[owner], events, tape)
        found.append(Located(owner, _settle(sites), sources, when, tuple(runs[owner]), inline, spots, busy))
    return found


def _longer(places: list[_Place]) -> dict[int, set[int]]:
    """For the operations that are part of a formula: all operations of the formulas they are part of."""
    found: dict[int, set[int]] = defaultdict(set)
    for match in (m for place in places for m in place.matches if m.is_formula):
        for op in match.ops:
            if op is not match.root:
                found[op.index] |= {o.index for o in match.ops}
    return found


def _spots(place: _Place, functions: CalledFunctions) -> tuple[Spot | str, ...]:
    """Where the runs of a call stand in the source."""
    found: list[Spot | str] = []
    for match, called in zip(place.matches, place.called, strict=True):
        if called is not None:
            found.append(spot_of_call(called.spot, match.root.inplace))
        else:
            found.append(spot_of_ops(match.root, match.ops, match.x, functions))
    return tuple(found)


def _events(tape: Tape) -> dict[int, list[tuple[Spot, int | None, int | None]]]:
    """By call: the spots of the operations and of the module calls made in it, with the number of either."""
    found: dict[int, list[tuple[Spot, int | None, int | None]]] = defaultdict(list)

    def registered(call: int) -> int:
        while tape.calls[call].name is None:
            call = tape.calls[call].parent
        return call

    for op in tape.ops:
        if op.spot is not None:
            found[registered(op.call)].append((op.spot, op.index, None))
    for call in tape.calls:
        if call.spot is not None:
            found[registered(call.parent)].append((call.spot, None, call.index))
    return found


def _busy(
    places: list[_Place],
    spots: tuple[tuple[Spot | str, ...], ...],
    runs: list[int],
    events: dict[int, list[tuple[Spot, int | None, int | None]]],
    tape: Tape,
) -> frozenset[tuple[CodeType, Place]]:
    """Places at which an owner also makes calls that are no activation, or none whose spot is known."""
    ops: set[int] = set()
    calls: set[int] = set()
    for place, found in zip(places, spots, strict=True):
        for match, called, spot in zip(place.matches, place.called, found, strict=True):
            if called is not None:
                calls |= {called.index} if isinstance(spot, Spot) else set()
            elif isinstance(spot, Spot):
                ops |= {op.index for op in match.ops}

    def activation(op: int | None, call: int | None) -> bool:
        if call is None:
            return op in ops
        inside = {o.index for o in tape.ops[slice(*tape.calls[call].ops)]}
        return call in calls or (bool(inside) and inside <= ops)

    busy = (e for run in runs for e in events.get(run, ()) if not activation(*e[1:]))
    return frozenset((s.code, s.place) for s in (passed_on(spot) for spot, _, _ in busy))


def _parts(place: _Place, owner: nn.Module, tape: Tape) -> list[str]:
    """Children of the owner that compute a part of a formula: `x * self.sigmoid(x)`."""
    if place.called[0] is not None:
        return []
    modules = {id(tape.calls[c].module) for op in place.matches[0].ops for c in tape.ancestors(op.call)}
    return [path for path, module in owner.named_modules() if path and id(module) in modules]


def recurrent_sites(tape: Tape) -> list[tuple[int, Site]]:
    """List the recurrent layers of a tape, and when they run: activations that are seen, but cannot be replaced."""
    sites = []
    for name in dict.fromkeys(c.name for c in tape.calls if isinstance(c.module, nn.RNNBase)):
        if name is not None:
            call = next(c for c in tape.calls if c.name == name)
            kind = Source("tanh" if not isinstance(call.module, nn.RNN) else call.module.nonlinearity)
            site = Site(name, kind, "gate", "module", name.rpartition(".")[0], "left", RECURRENT)
            sites.append((call.ops[0], site))
    return sites


def scripted_sites(tape: Tape) -> list[tuple[int, Site]]:
    """List the activations that TorchScript computes, and when: seen, but nothing can be put there."""
    counted: Counter[tuple[str, str]] = Counter()
    when: dict[tuple[str, str], int] = {}
    for index, kind in tape.scripted:
        name = next(tape.calls[c].name for c in tape.ancestors(index) if tape.calls[c].name is not None) or ""
        if kind in _SCRIPTED:
            counted[name, kind] += 1
            when.setdefault((name, kind), tape.calls[index].ops[0])
    return [
        (
            when[key],
            Site(
                ".".join(filter(None, key)) + "@script",
                Source(key[1]),
                role,
                "function",
                key[0],
                "left",
                SCRIPT,
                calls=n,
            ),
        )
        for key, n in counted.items()
        for role in (_scripted_role(key[1]),)
    ]


def _scripted_role(kind: str) -> Role:
    return "gate" if kind in ("sigmoid", "tanh") else "activation"


def _places(tape: Tape, constants: Constants) -> list[_Place]:
    places: dict[tuple[str, int], _Place] = {}
    ordinals: Counter[int] = Counter()
    loses = _lossless()
    for match in activations_of(tape, constants):
        inner = _common_call(match, tape)
        call = tape.calls[inner]
        registered = call.parent >= 0 and call.name is not None
        called = call if registered and _is_whole(match, call, tape, constants) else None
        if called is not None and loses(called.module):
            called = None  # replaced inside the module, whose forward does more than compute
        around = call.parent if called is not None else inner
        while tape.calls[around].name is None:
            around = tape.calls[around].parent
        owner, ordinal = tape.calls[around].name or "", ordinals[around]
        ordinals[around] += 1
        place = places.setdefault((owner, ordinal), _Place(owner, ordinal))
        place.matches.append(match)
        place.called.append(called)
    return list(places.values())


def _lossless() -> Callable[[nn.Module], str]:
    """Return a function that tells what would be lost if a module were replaced as a whole."""
    known: dict[type, str] = {}

    def loses(module: nn.Module) -> str:
        kind = type(module)
        if "forward" in vars(module):
            return "its forward is set on the instance"
        if kind.__module__.startswith(("torch.", "actswap.")):
            return ""
        if kind not in known:
            known[kind] = losses_of(kind.forward, module)
        return known[kind]

    return loses


def _common_call(match: Match, tape: Tape) -> int:
    """The innermost module call around all operations of a match."""
    if match.source.kind.startswith("actswap."):
        return match.root.call
    common = list(tape.ancestors(match.ops[0].call))
    for op in match.ops[1:]:
        around = set(tape.ancestors(op.call))
        common = [c for c in common if c in around]
    return common[0]


def _is_whole(match: Match, call: Call, tape: Tape, constants: Constants) -> bool:
    """True if the module call is this activation and nothing else."""
    if match.source.kind.startswith("actswap."):
        return True
    inputs = [v for v in call.inputs if tape.values[v].constant is None or v == match.x]
    inside = {op.index for op in match.ops}
    others = (op for op in tape.ops[slice(*call.ops)] if op.index not in inside)
    rest = [op for op in others if any(constants.of(out) is None for out in op.outs)]
    return inputs == [match.x] and call.outputs == match.root.outs and not rest


def _site(
    place: _Place,
    names: dict[str, nn.Module],
    finder: ChannelFinder,
    instances: dict[int, set[tuple[str, int]]],
    elsewhere: set[int],
) -> Site:
    match, called = place.matches[0], place.called[0]
    shapes = [finder.values[m.x].shape for m in place.matches]
    channels, channel_dim = common_width(shapes, [finder.axis(m.x) for m in place.matches])
    if match.axis is not None:  # its constants differ by channel, whatever made the tensor
        rank = len(shapes[0])
        channels, channel_dim = shapes[0][match.axis], -1 if match.axis == rank - 1 and rank > 2 else match.axis
    child, reason = "", ""
    how: How = "island"
    owner = names[place.owner]
    if called is not None:
        child = _path_below(owner, called.module)
        if id(called.module) in elsewhere:
            pass  # a swap would reach calls that are no site, or another one
        elif not child and len(instances[id(called.module)]) == 1:
            child, how = called.name or "", "swap"  # registered elsewhere, but this is its only call
        elif child and called.args:  # called by keyword, only a trace can tell which name its argument has
            how = "swap"
    if len({m.source.kind for m in place.matches}) > 1:
        how, reason = "left", "the call is a different activation from one run of its module to the next"
    fn = match.source.kind if match.is_formula else match.root.name
    fn = {"hardtanh": "relu6" if match.source.kind == "relu6" else "hardtanh"}.get(fn, fn)
    local = child if child and called is not None else fn
    if match.source.kind.startswith("actswap."):
        local = re.sub(r"@\d+$", "", local)  # the name that the site had before it was converted
    absolute = called is not None and bool(child) and not _path_below(owner, called.module)
    name = local if absolute or not place.owner else f"{place.owner}.{local}"
    form: Form = "formula" if match.is_formula else "method" if match.root.form == "method" else "function"
    form = "module" if called is not None else form
    return Site(
        name=name,
        source=match.source,
        role="activation",
        form=form,
        owner=place.owner,
        how=how,
        reason=reason,
        shape=shapes[0],
        channels=channels,
        channel_dim=channel_dim,
        calls=len(place.matches),
        inplace=match.root.inplace,
        line=(called.line if called is not None else match.root.line),
        ordinal=place.ordinal,
        child=child,
    )


def _path_below(owner: nn.Module, module: nn.Module) -> str:
    for path, candidate in owner.named_modules(remove_duplicate=False):
        if candidate is module and path:
            return str(path)
    return ""


def _settle(sites: tuple[Site | None, ...]) -> tuple[Site | None, ...]:
    """A child that is called more than once by its owner cannot be swapped: its owner becomes an island."""
    uses = Counter(s.child for s in sites if s is not None and s.child)
    shared = (s is not None and s.how == "swap" and uses[s.child] > 1 for s in sites)
    return tuple(_shared(s) if s is not None and many else s for s, many in zip(sites, shared, strict=True))


def _shared(site: Site) -> Site:
    if site.source.kind in MODULES:
        return replace(site, how="left", reason="a module with layers of its own, called more than once")
    return replace(site, how="island")
