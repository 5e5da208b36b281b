"""Which target each site gets: one for all, or rules from selectors to targets, of which the first that matches holds.

A target is a name, an expression, or a name with its options as in a call: `meta_acon(space=layer, r=8)`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actswap import activations
from actswap.activations.base import Spec
from actswap.errors import SelectionError, UsageError
from actswap.select import Selectors, matching, select
from actswap.sites import Site

Target = str | tuple[str, Mapping[str, Any]]
Targets = str | Mapping[str, Target]
_WITH_OPTIONS = re.compile(r"\s*\w+\s*\(\s*\w+\s*=[^=].*\)\s*", re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """A target for the sites that a selector matches.

    Attributes:
        selector: as in `select`; empty for every site that is selected at all.
        spec: the target.
        options: its options.
    """

    selector: str
    spec: Spec
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.selector:
            return self.spec.name
        given = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.selector}={self.spec.name}" + (f"({given})" if given else "")


def read_rules(targets: Targets, options: Mapping[str, Any] | None = None) -> tuple[Rule, ...]:
    """Read what `convert` was asked for.

    Args:
        targets: a target, or targets by selector in the order in which they are tried. A target is a text, or a pair
            of its name and its options.
        options: options of a single target.

    Returns:
        The rules, checked as far as that needs no model.

    Raises:
        UsageError: an unknown target or option, no rule, or `options` beside several targets.

    >>> [str(rule) for rule in read_rules({"layer4.*": "meta_acon(space=layer)", "*": "acon_c"})]
    ['layer4.*=meta_acon(space=layer)', '*=acon_c']
    """
    if isinstance(targets, str):
        return (_rule("", targets, options or {}),)
    if not isinstance(targets, Mapping) or not targets:
        raise UsageError(
            f"{targets!r} names no target",
            fix='a name, or names by selector: {"layer4.*": "meta_acon", "*": "acon_c"}',
        )
    if options:
        raise UsageError(
            f"options={dict(options)} do not say which of {len(targets)} targets they are for",
            fix='give them with the target: {"layer4.*": "meta_acon(space=layer)", "*": "acon_c"}',
        )
    return tuple(_rule(selector, target, {}) for selector, target in targets.items())


def read_target(text: str) -> tuple[str, dict[str, Any]]:
    """Split `name(option=value, ...)` into the name and the options; values are literals or plain words.

    >>> read_target("pau(degrees=(7, 6), form=B)")
    ('pau', {'degrees': (7, 6), 'form': 'B'})
    """
    if not _WITH_OPTIONS.fullmatch(text):
        return text.strip(), {}
    try:
        call = ast.parse(text.strip(), mode="eval").body
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        return call.func.id, {str(keyword.arg): _value(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, AssertionError) as error:
        raise UsageError(
            f"the target {text!r} is not understood", why=str(error), fix="meta_acon(space=layer, r=8)"
        ) from None


def split_rule(text: str) -> tuple[str, str]:
    """Split `SELECTOR=TARGET`; the selector is empty if there is none.

    >>> split_rule("layer4.*=meta_acon(space=layer)"), split_rule("acon_c")
    (('layer4.*', 'meta_acon(space=layer)'), ('', 'acon_c'))
    """
    if _WITH_OPTIONS.fullmatch(text):
        return "", text
    found = re.fullmatch(rf"(?P<selector>.+?)=(?P<target>{_WITH_OPTIONS.pattern}|[^=]+)", text, re.DOTALL)
    return (found["selector"].strip(), found["target"].strip()) if found else ("", text)


def assign(
    sites: Sequence[Site], rules: Sequence[Rule], only: Selectors = None, skip: Selectors = None
) -> dict[str, Rule]:
    """Give each selected site its rule.

    Args:
        sites: the sites of a model.
        rules: from `read_rules`.
        only: selectors of the sites to replace; None for all that a rule matches.
        skip: selectors of sites to leave.

    Returns:
        The rule by site name.

    Raises:
        SelectionError: a selector matches nothing, or earlier rules take all that a rule matches.
    """
    if not rules[0].selector:
        return {site.name: rules[0] for site in select(sites, only, skip)}
    found: dict[str, Rule] = {}
    useless: list[str] = []
    for rule in rules:
        select(sites, [rule.selector])  # raises if it matches nothing
        hits = [site.name for site in matching(sites, rule.selector)]
        fresh = {name: rule for name in hits if name not in found}
        if not fresh:
            useless.append(f"{rule}: earlier rules take all {len(hits)} sites that it matches")
        found |= fresh
    if useless:
        raise SelectionError(
            "; ".join(useless), fix="the first rule that matches holds: put special ones before general"
        )
    kept = {site.name for site in select(sites, only if only is not None else list(found), skip)}
    return {name: rule for name, rule in found.items() if name in kept}


def _rule(selector: str, target: Target, options: Mapping[str, Any]) -> Rule:
    if isinstance(target, str):
        name, own = read_target(target)
    else:
        name, own = target[0], dict(target[1])
    spec = activations.get(name)
    own = {**own, **options}
    spec.check_options(own)
    return Rule(selector, spec, own)


def _value(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
