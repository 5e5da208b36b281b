"""The plain activations as targets: one Spec each, without parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from actswap.activations.base import Spec, StartContext, elements
from actswap.activations.options import Real
from actswap.activations.plain import PLAIN, SourceModule
from actswap.errors import StartError
from actswap.sites import Source, Start

# The same function under another name.
_ALIASES: Mapping[Source, Source] = {
    Source("silu"): Source.of("swish", beta=1.0),
    Source("quick_gelu"): Source.of("swish", beta=1.702),
    Source("relu6"): Source.of("hardtanh", low=0.0, high=6.0),
    Source("relu"): Source.of("leaky_relu", slope=0.0),
    Source("identity"): Source.of("leaky_relu", slope=1.0),
}


def canonical(source: Source) -> Source:
    """A source with all its constants, under one of the names it has."""
    source = _ALIASES.get(source, source)
    if source.kind not in PLAIN:
        return source
    constants = {**PLAIN[source.kind].constants, **dict(source.params)}
    kind = "leaky_relu" if source.kind == "prelu" else "elu" if source.kind == "celu" else source.kind
    if source.kind == "celu" and constants["alpha"] != 1.0:
        kind = "celu"
    return Source.of(kind, **constants)


_RULES = {  # what the formula divides by
    ("celu", "alpha"): Real(other_than=0.0),
    ("softplus", "beta"): Real(other_than=0.0),
    ("snake", "a"): Real(other_than=0.0),
}


def _spec(name: str) -> Spec:
    plain = PLAIN[name]

    def build(channels: int | None, channel_dim: int = 1, **constants: Any) -> nn.Module:
        return SourceModule(Source.of(name, **{**plain.constants, **constants}), channel_dim)

    def promise(source: Source) -> str:
        return "exact" if canonical(source) == canonical(Source(name)) else "none"

    def start(source: Source, context: StartContext) -> Start:
        target = Source.of(name, **{**plain.constants, **context.options})
        if canonical(source) == canonical(target):
            return Start("exact", bound=0.0)
        raise StartError(
            f"{target} has no start for {source}",
            why="it has no parameters, and is another function",
            fix='start="morph", or start="none" to train from there',
        )

    return Spec(
        name=name,
        title="ordinary activation, without parameters",
        paper=plain.paper,
        build=build,
        promise=promise,
        start=start,
        options=dict(plain.constants),
        rules={key: _RULES.get((name, key), Real()) for key in plain.constants},
        flops=lambda module, shape: elements(shape),
    )


SPECS = {name: _spec(name) for name in PLAIN if name not in ("swish", "prelu", "identity", "acon_c")}
