"""Trainable activations: formula, module and starts of each, and the list of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from actswap.activations import (
    acon_a,
    acon_b,
    acon_c,
    acon_frelu,
    dy_relu,
    dy_relu_c,
    meta_acon,
    opau,
    ordinary,
    pau,
    swish,
)
from actswap.activations.base import Spec
from actswap.activations.expression_unit import expression_spec
from actswap.activations.grammar import looks_like_expression
from actswap.activations.plain import PLAIN
from actswap.errors import UsageError
from actswap.sites import Source

TRAINABLE: tuple[Spec, ...] = (
    acon_a.SPEC,
    acon_b.SPEC,
    acon_c.SPEC,
    acon_frelu.SPEC,
    meta_acon.SPEC,
    dy_relu.SPEC_A,
    dy_relu.SPEC_B,
    dy_relu_c.SPEC,
    pau.SPEC,
    opau.SPEC,
    opau.SPEC_HP1,
    opau.SPEC_HP2,
    swish.SPEC,
)
SPECS: Mapping[str, Spec] = {**{spec.name: spec for spec in TRAINABLE}, **ordinary.SPECS}


_REGISTERED: dict[str, str] = {}  # name -> expression


def register(name: str, expression: str) -> Spec:
    """Give an expression a name, under which it is a target in this process.

    Plans and bundles hold the expression itself, so they load where the name is not known.

    Args:
        name: a new name, letters, digits and `_`.
        expression: e.g. `x*tanh(beta*x)`.

    Returns:
        The activation.

    Raises:
        UsageError: the name is taken or no name, or the text is no expression.

    >>> import actswap
    >>> actswap.register("lisht_beta", "x*tanh(beta*x)").name
    'x*tanh(beta*x)'
    >>> get("lisht_beta").options["beta"]
    1.0
    """
    spec = expression_spec(expression)
    if not name.isidentifier() or looks_like_expression(name) or name in SPECS:
        why = "an activation has it" if name in SPECS else "a name is made of letters, digits and _"
        raise UsageError(f"{name!r} cannot be the name of an expression", why=why, fix="another name")
    if _REGISTERED.setdefault(name, spec.name) != spec.name:
        raise UsageError(f"{name!r} is {_REGISTERED[name]} already", fix="another name")
    return spec


def get(name: str) -> Spec:
    """Return the activation of this name, or the one that this expression is.

    Args:
        name: e.g. `acon_c`, or an expression such as `x*sigmoid(beta*x)`.

    Raises:
        UsageError: there is none; the message names the nearest, or the column of the expression.

    >>> get("acon_c").name, get("x * tanh(x)").name
    ('acon_c', 'x*tanh(x)')
    """
    if name in SPECS:
        return SPECS[name]
    if name in _REGISTERED or looks_like_expression(name):
        return expression_spec(_REGISTERED.get(name, name))
    names = [*SPECS, *_REGISTERED]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    raise UsageError(
        f"there is no activation {name!r}",
        why=f"known: {', '.join(names)}",
        fix=f"one of {', '.join(near)}" if near else "actswap list",
    )


def known(name: str) -> Spec | None:
    """Return the activation of this name, None if there is none.

    >>> known("x*tanh(x)").title, known("no_such_name")
    ("an expression of the Swish paper's search space", None)
    """
    try:
        return get(name)
    except UsageError:
        return None


@dataclass(frozen=True)
class Listed:
    """One activation as `list_activations` shows it.

    Attributes:
        name: the name users type.
        title: what it is, in one line.
        paper: where it comes from.
        options: option names with their defaults.
        starts: the best start it promises, by kind of source.
    """

    name: str
    title: str
    paper: str
    options: Mapping[str, Any]
    starts: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def list_activations() -> list[Listed]:
    """List every activation: its name, its paper, its options, and the start it promises for each source.

    Returns:
        The trainable activations, then the plain ones.

    >>> import actswap
    >>> acon = {listed.name: listed for listed in actswap.list_activations()}["acon_c"]
    >>> acon.starts["silu"], acon.starts["relu"]
    ('exact', 'limit')
    """
    table = starts_table(targets=SPECS)
    return [
        Listed(
            spec.name,
            spec.title,
            spec.paper,
            dict(spec.options),
            {source: kind for (source, target), kind in table.items() if target == spec.name},
        )
        for spec in SPECS.values()
    ]


def starts_table(
    sources: Iterable[Source] | None = None, targets: Iterable[str] | None = None
) -> dict[tuple[str, str], str]:
    """The best start of every (source, target) pair: exact, limit, fit, or morph if no other preserves.

    Args:
        sources: sources to list, all plain activations with their default constants if None.
        targets: names of targets, the trainable ones if None.

    Returns:
        Start kind by (source kind, target name), in the order of sources, then targets.
    """
    rows = list(sources) if sources is not None else [Source(kind) for kind in PLAIN]
    specs = [get(name) for name in targets] if targets is not None else TRAINABLE
    promises = {(source.kind, spec.name): spec.promise(source) for source in rows for spec in specs}
    return {pair: "morph" if kind == "none" else kind for pair, kind in promises.items()}
