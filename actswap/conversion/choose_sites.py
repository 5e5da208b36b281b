"""Choose the sites to replace; every other is left, with its reason."""

from __future__ import annotations

from collections.abc import Sequence

from actswap.conversion.rules import Rule, assign
from actswap.conversion.survey import Survey
from actswap.errors import UsageError
from actswap.select import Selectors
from actswap.sites import Site


def choose_sites(
    found: Survey, rules: Sequence[Rule], only: Selectors, skip: Selectors, model: str
) -> tuple[dict[Site, Rule], list[tuple[Site, str]]]:
    """Split the sites into those to replace and those to leave, with reasons.

    Args:
        found: the survey of the model.
        rules: the targets.
        only: selectors of the sites to replace; default all that are no gates.
        skip: selectors of sites to leave.
        model: class name of the model, for messages.

    Returns:
        The rule of each site to replace, and the other sites with reasons.

    Raises:
        UsageError: there is nothing to replace.
        SelectionError: a selector matches nothing.
    """
    ours = [s for s in found.sites if not s.source.kind.startswith("actswap.")]
    if not found.sites:
        raise UsageError(
            f"no activation found in {model}",
            why="its forward pass on these inputs makes no activation call",
            fix="actswap scan MODEL --why NAME",
        )
    if not ours:
        raise UsageError(
            f"this {model} is already converted",
            why=f"all {len(found.sites)} activation calls go to actswap modules",
            fix="revert it first: actswap.revert(model)",
        )
    assigned = assign(found.sites, rules, only, skip)
    chosen: dict[Site, Rule] = {}
    left: list[tuple[Site, str]] = []
    for site in found.sites:
        rule = assigned.get(site.name)
        if rule is None:
            gate = site.role == "gate" and not only
            left.append((site, site.reason or ("gate: left alone unless selected" if gate else "not selected")))
        elif site.how == "left":
            left.append((site, site.reason))
        elif site.source.kind == rule.spec.name:
            left.append((site, f"is {rule.spec.name} already"))
        elif site.channels is None and not rule.spec.per_layer:
            left.append((site, f"its channel axis is not clear, and {rule.spec.name} needs one"))
        else:
            chosen[site] = rule
    if not chosen:
        reasons = "; ".join(sorted({r for _, r in left}))
        raise UsageError(f"nothing to replace in {model}", why=reasons, fix="actswap scan MODEL shows every site")
    return chosen, left
