"""`actswap scan`: every activation call of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from actswap.cli.verb import INPUT_OPTION, MODEL_OPTIONS, Answer, inputs_for, load, table, verb
from actswap.errors import SelectionError
from actswap.sites import Site


@verb(
    click.argument("path", metavar="MODEL", type=click.Path()),
    MODEL_OPTIONS,
    INPUT_OPTION,
    click.option("--why", metavar="NAME", help="Explain one site, or why a module is none."),
)
def command(
    path: str,
    spec: str | None,
    allow: tuple[str, ...],
    trust_pickle: bool,
    base: str | None,
    specs: tuple[str, ...],
    why: str | None,
) -> Answer:
    """List every activation call of MODEL: what it is, how it is called, and how it will be replaced."""
    loaded = load(path, spec, allow, trust_pickle, base)
    inputs = inputs_for(loaded, specs)
    from actswap.survey import scan

    sites = scan(loaded.module, inputs.args, inputs.kwargs)
    if why is not None:
        return explain(loaded.module, sites, why)
    data = {
        "model": type(loaded.module).__name__,
        "kind": loaded.kind,
        "input": inputs.said,
        "assumed_input": inputs.assumed,
        "sites": [site.to_dict() for site in sites],
    }
    return Answer(data, [site_table(sites), summary(sites)])


def site_table(sites: Sequence[Site]) -> Any:
    """Return the table of sites."""
    rows = table("", "site", "source", "role", "form", "how", "input", "channels", "calls", right=("channels", "calls"))
    for site in sites:
        how = site.how if site.how != "left" else f"left: {site.reason}"
        axis = f"{site.channels} @ {site.channel_dim}" if site.channels else "per layer"
        shape = "x".join(map(str, site.shape))
        rows.add_row(site.name, str(site.source), site.role, site.form, how, shape, axis, str(site.calls))
    return rows


def summary(sites: Sequence[Site]) -> str:
    """Return the counts in one line."""
    activations = [s for s in sites if s.role != "gate"]
    kinds = Counter(s.source.kind for s in activations)
    ways = Counter(s.how for s in activations)
    text = f"{len(activations)} activation sites"
    if kinds:
        text += " (" + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()) + ")"
        text += ": " + ", ".join(f"{n} by {way}" if way != "left" else f"{n} left" for way, n in ways.most_common())
    gates = len(sites) - len(activations)
    return text + (f"; {gates} gates, left alone unless asked for" if gates else "")


def explain(model: Any, sites: Sequence[Site], name: str) -> Answer:
    """Explain a site, or why a module of that name is none."""
    found = next((s for s in sites if s.name == name), None)
    if found is not None:
        owner = found.owner or "the model itself"
        ways = {
            "swap": "replaced by swapping the module: it is called exactly once",
            "island": f"replaced in an island: the forward of {owner} is traced and rewritten, "
            "because the call is shared, functional or a formula",
        }
        axis = f"{found.channels} channels on axis {found.channel_dim}" if found.channels else "no clear channel axis"
        gate = ": its output multiplies something; --only takes it" if found.role == "gate" else ""
        lines = [
            f"{name} is a site: {found.source}, called as a {found.form} by {owner}",
            f"  at {found.line}" if found.line else "",
            f"  input {'x'.join(map(str, found.shape))}, {axis}",
            f"  role {found.role}{gate}",
            f"  {ways.get(found.how, f'left: {found.reason}')}",
        ]
        lines = [line for line in lines if line.strip()]
        return Answer({"name": name, "site": found.to_dict(), "why": "\n".join(lines)}, ["\n".join(lines)])
    modules = dict(model.named_modules())
    if name not in modules:
        import difflib

        near = difflib.get_close_matches(name, [*(s.name for s in sites), *modules], 3)
        raise SelectionError(
            f"there is no site and no module {name!r}",
            why=f"nearest: {', '.join(near)}" if near else "",
            fix="actswap scan MODEL lists the sites",
        )
    inside = [s.name for s in sites if s.owner == name or s.name.startswith(name + ".") or s.child == name]
    kind = type(modules[name]).__name__
    if inside:
        text = f"{name} is a {kind}; its sites are: {', '.join(inside)}"
    else:
        text = (
            f"{name} is a {kind} in which no activation call ran on this input: "
            "it computes none, was not reached, or is not an activation"
        )
    return Answer({"name": name, "site": None, "inside": inside, "why": text}, [text])
