r"""Selectors choose sites. A word before a colon names the field of `Site` that is compared.

layer3.*            glob on site names            re:layer[12]\.   regular expression on site names
layer1.0.relu@1     one call                      source:relu      source activation; `type:relu` is the same
form:formula        form of the call: module, function, method, formula, or functional for function and method;
                    `kind:formula` is the same
role:gate           gates, which are otherwise left alone
first:2  last:1     the first or last sites in the order in which they run
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Sequence

from actswap.errors import SelectionError
from actswap.sites import Site

Selectors = str | Sequence[str] | None


def select(sites: Sequence[Site], only: Selectors = None, skip: Selectors = None) -> list[Site]:
    """Return the chosen sites in order; a gate is chosen only if a selector names it.

    Args:
        sites: the sites of a model.
        only: selectors of the sites to take; None takes all sites except gates.
        skip: selectors of sites to leave out.

    Returns:
        The chosen sites, in the order of `sites`.

    Raises:
        SelectionError: some selectors match nothing (all of them are named), or a selector cannot be read.

    >>> from actswap.sites import Source
    >>> sites = [
    ...     Site("a.act", Source("relu"), "activation", "module", "a", "swap"),
    ...     Site("b.gelu", Source("gelu"), "activation", "function", "b", "island"),
    ...     Site("b.gate", Source("sigmoid"), "gate", "module", "b", "swap"),
    ... ]
    >>> [site.name for site in select(sites)]
    ['a.act', 'b.gelu']
    >>> [site.name for site in select(sites, only=["source:relu", "role:gate"])]
    ['a.act', 'b.gate']
    """
    keep, drop = _as_list(only), _as_list(skip)
    chosen = {s.name for s in sites if s.role != "gate"} if not keep else set()
    misses: list[str] = []
    for flag, selectors in (("only", keep), ("skip", drop)):
        for selector in selectors:
            hits = {s.name for s in matching(sites, selector)}
            if not hits:
                misses.append(f"{flag} {selector!r} matched 0 of {len(sites)} sites{_nearest(selector, sites)}")
            chosen = chosen | hits if flag == "only" else chosen - hits
    if misses:
        raise SelectionError(
            "; ".join(misses),
            fix="list the sites: actswap scan MODEL, or actswap.scan(model, example_inputs)",
        )
    return [s for s in sites if s.name in chosen]


def matching(sites: Sequence[Site], selector: str) -> list[Site]:
    """Return the sites that one selector matches.

    Args:
        sites: the sites of a model.
        selector: one selector.

    Returns:
        The matching sites, in order; empty if none matches.

    Raises:
        SelectionError: the selector cannot be read.
    """
    key, colon, value = selector.partition(":")
    if key in ("first", "last") and colon:  # else it may be the name of a site
        if not value.isdigit():
            raise SelectionError(f"cannot read selector {selector!r}", fix=f"write {key}:3")
        ordinary = [s for s in sites if s.role != "gate"]
        n = int(value)
        return ordinary[:n] if key == "first" else ordinary[len(ordinary) - min(n, len(ordinary)) :]
    return [s for s in sites if _test(selector, key, value)(s)]


def _test(selector: str, key: str, value: str) -> Callable[[Site], bool]:
    if key == "re":
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise SelectionError(f"cannot read selector {selector!r}", why=str(error), fix="re:layer[12]\\.") from None
        return lambda s: bool(pattern.search(s.name)) and s.role != "gate"
    if key in ("source", "type"):
        return lambda s: s.source.kind == value and (s.role != "gate" or value in ("sigmoid", "hardsigmoid", "glu"))
    if key in ("form", "kind"):
        forms = {"functional": ("function", "method")}.get(value, (value,))
        return lambda s: s.form in forms and s.role != "gate"
    if key == "role":
        return lambda s: s.role == value
    if selector.endswith("@0"):
        selector = selector[:-2]
    return lambda s: s.name == selector or (s.role != "gate" and fnmatch.fnmatchcase(s.name, selector))


def _as_list(selectors: Selectors) -> list[str]:
    if selectors is None:
        return []
    return [selectors] if isinstance(selectors, str) else list(selectors)


def _nearest(selector: str, sites: Sequence[Site]) -> str:
    near = difflib.get_close_matches(selector.partition(":")[2] or selector, [s.name for s in sites], 3, 0.0)
    return f" (nearest: {', '.join(near)})" if near else ""
