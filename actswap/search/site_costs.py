"""What an activation costs at a site: latency in ONNX Runtime, parameters, or floating-point operations.

The cost of an assignment is the sum over its sites. Latency is that of the activation alone, as an ONNX file of one
node that runs on one thread with the kernels of the project; a runtime that fuses it with its neighbours is faster.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from actswap import activations
from actswap.activations.plain import PLAIN, SourceModule
from actswap.conversion.rules import read_target
from actswap.errors import UsageError
from actswap.onnx.bench import Contender, bench
from actswap.onnx.export import export_onnx
from actswap.sites import Progress, Site

KEEP = "keep"
COSTS = ("latency", "parameters", "flops")
UNITS: Mapping[str, str] = {"latency": "ms", "parameters": "parameters", "flops": "FLOPs"}
Costs = Mapping[tuple[str, str], float]
"""Cost by (name of the site, choice); a choice is a target, or `keep`."""


def site_costs(
    sites: Sequence[Site], choices: Sequence[str], kind: str, rounds: int = 30, progress: Progress | None = None
) -> Costs:
    """Return the cost of every choice at every site.

    Args:
        sites: the sites.
        choices: targets with their options, and `keep`.
        kind: `latency` (ms for the input that was observed), `parameters` or `flops`.
        rounds: measured calls, for latency.
        progress: called with (done, total, text).

    Raises:
        UsageError: an unknown kind or target.
    """
    if kind not in COSTS:
        raise UsageError(f"unknown cost {kind!r}", fix=f"one of {', '.join(COSTS)}")
    pairs = [(site, choice) for site in sites for choice in choices]
    if kind != "latency":
        count = _parameters if kind == "parameters" else _flops
        return {(site.name, choice): float(count(site, choice)) * site.calls for site, choice in pairs}
    known: dict[tuple[object, ...], float] = {}  # blocks repeat: equal shapes are measured once
    found: dict[tuple[str, str], float] = {}
    for done, (site, choice) in enumerate(pairs):
        key = (choice, site.shape, site.channels, site.channel_dim, site.source if choice == KEEP else "")
        if key not in known:
            if progress is not None:
                progress(done, len(pairs), f"latency: {choice} at {site.name}")
            known[key] = _latency(unit_at(site, choice), site.shape, rounds)
        found[site.name, choice] = known[key] * site.calls
    return found


def unit_at(site: Site, choice: str) -> nn.Module:
    """Build the module of a choice for a site."""
    if choice == KEEP:
        return SourceModule(site.source, site.channel_dim) if site.source.kind in PLAIN else nn.Identity()
    name, options = read_target(choice)
    spec = activations.get(name)
    spec.check_options(options)
    return spec.build(site.channels, site.channel_dim, **options)


def _parameters(site: Site, choice: str) -> int:
    return 0 if choice == KEEP else sum(p.numel() for p in unit_at(site, choice).parameters())


def _flops(site: Site, choice: str) -> int:
    if choice == KEEP:
        spec = activations.known(site.source.kind)
        return spec.flops(unit_at(site, choice), site.shape) if spec is not None and spec.flops is not None else 0
    spec = activations.get(read_target(choice)[0])
    return spec.flops(unit_at(site, choice), site.shape) if spec.flops is not None else 0


def _latency(unit: nn.Module, shape: tuple[int, ...], rounds: int) -> float:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "unit.onnx"
        export_onnx(unit.eval(), x, file, dynamic_batch=False)
        return bench([Contender("unit", file)], x, rounds=rounds).rows[0].median
