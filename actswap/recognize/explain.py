"""Why a call was taken for an activation or not, in words: for `actswap scan --why`."""

from __future__ import annotations

from actswap.capture.tape import Op, Tape
from actswap.recognize.channels import ChannelFinder
from actswap.recognize.dynamic import activations_of
from actswap.recognize.locate import Located
from actswap.recognize.matches import Match
from actswap.recognize.reading import Constants
from actswap.sites import Site

_WAYS = {
    "swap": "replaced by swapping the module: it is called exactly once",
    "island": "replaced in an island: the forward of {owner} is traced, since no expression of its own makes the call",
    "rewrite": "replaced in the source of {owner}, at this very call; all around it stays as it is",
}
NO_FEATURES = "no activation: it limits values that no layer made or none reads (boxes, indices, positions)"


def explain_site(site: Site, tape: Tape, located: Located | None, rewritten: bool = False) -> list[str]:
    """Say what was matched, where, at which axis and why, what it is for, and how it is reached."""
    owner = site.owner or "the model itself"
    match = None if located is None else _match(tape, located, site)
    lines = [f"{site.name} is a site: {site.source}, called as a {site.form} by {owner}"]
    if match is not None:
        lines.append(f"  matched: {_matched(match)}")
    if site.line:
        lines.append(f"  at {site.line}")
    shape = "x".join(map(str, site.shape)) or "of unknown shape"
    lines.append(f"  input {shape}{f', in {site.calls} calls' if site.calls > 1 else ''}; {_axis(site, match, tape)}")
    gate = ": its result multiplies another tensor, or reaches no layer; --only takes it" if site.role == "gate" else ""
    lines.append(f"  role {site.role}{gate}")
    way = _WAYS["rewrite" if rewritten and site.how == "island" else site.how] if site.how in _WAYS else ""
    lines.append(f"  {way.format(owner=owner)}" if way else f"  left: {site.reason}")
    return lines


def other_calls(tape: Tape, located: Located) -> list[str]:
    """Describe the calls of an owner that look like an activation and are none."""
    ops = [tape.ops[index] for index, site in zip(located.when, located.sites, strict=True) if site is None]
    return [f"{op.name} at {op.line or 'an unknown line'}: {NO_FEATURES}" for op in ops]


def _match(tape: Tape, located: Located, site: Site) -> Match | None:
    index = next((w for w, s in zip(located.when, located.sites, strict=True) if s and s.name == site.name), None)
    found = activations_of(tape, Constants(tape.producers(), tape.values))
    return next((m for m in found if m.root.index == index), None)


def _matched(match: Match) -> str:
    if not match.is_formula:
        inplace = ", in place" if match.root.inplace else ""
        return f"the operation {match.root.name} ({match.root.form}{inplace})"
    steps = ", ".join(op.name for op in match.ops)
    if match.source.formula:
        return f"{match.source}, which is no function of the table, in {len(match.ops)} operations: {steps}"
    return f"the formula of {match.source.kind} in {len(match.ops)} operations: {steps}"


def _axis(site: Site, match: Match | None, tape: Tape) -> str:
    if site.channels is None:
        why = "its calls differ in it" if site.calls > 1 else "no layer before or behind it tells"
        return f"no clear channel axis ({why}): one set of parameters per layer"
    text = f"{site.channels} channels on axis {site.channel_dim}"
    witness = None if match is None else ChannelFinder(tape).witness(match.x)
    if witness is None:
        return text
    op, made = witness
    return f"{text}, as {'made' if made else 'read'} by {_layer(op, tape)}"


def _layer(op: Op, tape: Tape) -> str:
    name = next((tape.calls[c].name for c in tape.ancestors(op.call) if tape.calls[c].name), "")
    return f"{op.name} in {name}" if name else op.name
