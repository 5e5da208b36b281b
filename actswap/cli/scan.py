"""`actswap scan`: list every activation call of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from actswap.cli.verb import INPUT_OPTION, MODEL_OPTIONS, Answer, ModelOptions, inputs_for, load, table, verb
from actswap.errors import SelectionError
from actswap.sites import Site

if TYPE_CHECKING:
    from actswap.conversion.survey import Sites


@verb(
    click.argument("path", metavar="MODEL", type=click.Path()),
    MODEL_OPTIONS,
    INPUT_OPTION,
    click.option("--why", metavar="NAME", help="Explain one site, or why a module is no site."),
)
def command(
    path: str,
    how: ModelOptions,
    specs: tuple[str, ...],
    why: str | None,
) -> Answer:
    """List every activation call of MODEL: what it is, how it is called, and how it will be replaced."""
    loaded = load(path, how)
    inputs = inputs_for(loaded, specs)
    from actswap.conversion.survey import scan

    sites = scan(loaded.module, inputs.args, inputs.kwargs)
    if why is not None:
        return explain(sites, why)
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


def explain(sites: Sites, name: str) -> Answer:
    """Explain the site of that name, or the activation calls in the module of that name."""
    from actswap.recognize.explain import explain_site, other_calls

    survey = sites.survey
    found = next((s for s in sites if s.name == name), None)
    if found is not None:
        island = survey.islands.get(found.owner)
        rewritten = island is not None and bool(island.rewrites)
        text = "\n".join(explain_site(found, survey.tape, survey.located.get(found.owner), rewritten))
        return Answer({"name": name, "site": found.to_dict(), "why": text}, [text])
    modules = dict(survey.model.named_modules())
    if name not in modules:
        import difflib

        near = difflib.get_close_matches(name, [*(s.name for s in sites), *modules], 3)
        raise SelectionError(
            f"there is no site and no module {name!r}",
            why=f"nearest: {', '.join(near)}" if near else "",
            fix="actswap scan MODEL lists the sites",
        )
    below = f"{name}." if name else ""
    inside = [s for s in sites if s.owner == name or s.name.startswith(below) or _absolute(s) == name]
    none = [
        line
        for owner, located in survey.located.items()
        if owner == name or owner.startswith(below)
        for line in other_calls(survey.tape, located)
    ]
    kind = type(modules[name]).__name__
    reached = any(c.name == name for c in survey.tape.calls)
    lines = [f"{name or 'the model'} is a {kind}" + ("" if reached else ", which did not run on this input")]
    lines += [f"  {s.name}: {s.source}, {s.how}{f' ({s.reason})' if s.reason else ''}, {s.line}" for s in inside]
    lines += [f"  {line}" for line in dict.fromkeys(none)]
    if reached and len(lines) == 1:
        lines.append("  no activation call ran in it: none of its operations is one, nor a part of its formula")
    text = "\n".join(lines)
    return Answer({"name": name, "site": None, "inside": [s.name for s in inside], "none": none, "why": text}, [text])


def _absolute(site: Site) -> str:
    return f"{site.owner}.{site.child}" if site.owner and site.child else site.child
