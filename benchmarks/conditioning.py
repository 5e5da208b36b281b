"""How well conditioned the trained parameters of Padé units are: the mean squared gradient on the data.

    python benchmarks/conditioning.py            # 6 bases (and PAU) x 4 sources x 3 distributions; half a minute
    python benchmarks/conditioning.py --degrees 7 6
    python benchmarks/conditioning.py --channels   # units per channel: the worst of 32 channels that differ

G = mean over the data of (dy/dp)(dy/dp)' for the parameters p of the unit that `convert` would put there, by autograd
in float64. `before` are the paper's coefficients (what was trained until 2026-11), `after` the coordinates trained now.
Printed are G's condition number, its largest eigenvalue and how many coordinates train. A coordinate that float32
cannot represent is constant (`fit.coordinates`): G leaves it out. A gradient step of rate r is stable on a quadratic
loss only if r times the largest eigenvalue is small. Exit code 1 if a condition number is above 100 or an eigenvalue
above 10.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from actswap import activations
from actswap.activations.base import StartContext
from actswap.activations.opau import BASES, opau_formula
from actswap.activations.pau import pau_formula
from actswap.activations.rational import RationalActivation
from actswap.fit.histogram import Histogram, HistogramStream
from actswap.sites import Source

SOURCES = ("relu", "gelu", "silu", "tanh")
UNITS = {"pau": ("pau", {}), **{basis: ("opau", {"basis": basis}) for basis in BASES}}
LARGEST, CONDITION = 10.0, 100.0
RESULTS = Path(__file__).parent / "results"


def distributions(count: int = 20_000) -> dict[str, np.ndarray]:
    """What a site may see: centred, wide with heavy tails, narrow and off centre."""
    rng = np.random.default_rng(2026)
    return {
        "normal(0, 1)": rng.normal(size=count),
        "laplace(0, 3)": rng.laplace(scale=3.0, size=count),
        "normal(0.2, 0.3)": rng.normal(0.2, 0.3, count),
    }


def trained(unit: RationalActivation) -> Tensor:
    """True for the coordinates that move the coefficients: (k,)."""
    return unit.mix.ne(0.0).any(dim=0)


def spectrum(unit: RationalActivation, x: Tensor, coordinates: bool) -> tuple[float, float]:
    """Condition number and largest eigenvalue of the mean squared gradient.

    Args:
        unit: a unit per layer.
        x: (N,) inputs.
        coordinates: of the coordinates that train; else of the paper's coefficients.
    """
    row = unit.coordinates.detach() if coordinates else torch.cat(unit.coefficients()).detach()
    each = row.repeat(len(x), 1).requires_grad_()  # a set of its own for every input: one backward gives all gradients
    if coordinates:
        v = unit.centre + torch.asinh(each / unit.radius) @ unit.mix.T
    else:
        v = each
    top, bottom = v.split((unit.degrees[0] + 1, unit.terms), -1)
    basis, form = unit.basis_and_form
    tails = unit.current_tails().detach()
    if basis == "monomial":
        y = pau_formula(x[None], top, bottom, tails, form, 1)
    else:
        y = opau_formula(x[None], top, bottom, tails, basis, form == "A", 1)
    (gradient,) = torch.autograd.grad(y.sum(), each)
    if coordinates:
        gradient = gradient[:, trained(unit)]
    values = np.linalg.svd(gradient.numpy(), compute_uv=False) ** 2 / len(x)
    return float(values[0] / max(values[-1], 1e-300)), float(values[0])


def unit_for(name: str, source: str, histogram: Histogram, degrees: tuple[int, int]) -> RationalActivation:
    """The unit that a conversion puts at a site with this source and histogram."""
    target, options = UNITS[name]
    spec, options = activations.get(target), {"degrees": degrees, **options}
    start = spec.start(Source(source), StartContext(histogram=histogram, options=options))
    unit = spec.build(None, 1, **options)
    assert isinstance(unit, RationalActivation)
    unit.load_start(start.params)
    return unit.double()  # the float32 numbers that train, their gradients in float64


def channels(count: int = 32, each: int = 5_000) -> np.ndarray:
    """(C, n): normal inputs whose means differ by channel as N(0, 1), and whose log deviations as N(log 0.7, 0.8)."""
    rng = np.random.default_rng(2026)
    mean, spread = rng.normal(size=(count, 1)), 0.7 * np.exp(0.8 * rng.normal(size=(count, 1)))
    return mean + spread * rng.normal(size=(count, each))


def worst_channel(name: str, source: str, values: np.ndarray, own: bool, degrees: tuple[int, int]) -> list[float]:
    """The largest condition number, the largest eigenvalue and the fewest coordinates that train, over all channels.

    Args:
        name: of the unit.
        source: what it replaces.
        values: (C, n) inputs.
        own: coordinates for each channel's own inputs; else for those of the layer, as until 2026-11-29.
        degrees: of the unit.
    """
    target, options = UNITS[name]
    spec, options = activations.get(target), {"degrees": degrees, "per_channel": True, **options}
    stream = HistogramStream(len(values))
    stream.update(values)
    joint = stream.finish()
    histogram = joint if own else replace(joint, channels=())
    params = spec.start(Source(source), StartContext(histogram=histogram, options=options)).params
    unit = spec.build(len(values), 1, **options)
    unit.load_start(params)
    one = spec.build(None, 1, **{**options, "per_channel": None}).double()
    if target == "pau":
        one.form_code.copy_(unit.form_code)
        one.read_constants()
    worst = [0.0, 0.0, float("inf")]
    for channel, row in enumerate(values):
        for buffer in ("centre", "mix", "radius", "tails"):
            getattr(one, buffer).copy_(getattr(unit, buffer)[channel])
        condition, largest = spectrum(one, torch.from_numpy(row), True)
        worst = [max(worst[0], condition), max(worst[1], largest), min(worst[2], int(trained(one).sum()))]
    return worst


def by_channel(degrees: tuple[int, int]) -> tuple[list[str], dict[str, list[float]]]:
    """The table of units per channel, and its worst numbers."""
    lines = [
        f"Padé units of degrees {degrees} per channel, worst of 32 channels: condition number (largest eigenvalue)",
        f"{'unit':14}{'source':8}{'the layer’s coordinates':>26}{'its own':>18}{'train':>8}",
    ]
    values, worst = channels(), {"before": [0.0, 0.0], "after": [0.0, 0.0]}
    for name in UNITS:
        for source in SOURCES:
            found = {when: worst_channel(name, source, values, when == "after", degrees) for when in worst}
            for when, row in found.items():
                worst[when] = [max(a, b) for a, b in zip(worst[when], row, strict=False)]
            before, after = (f"{row[0]:.2g} ({row[1]:.2g})" for row in found.values())
            lines.append(f"{name:14}{source:8}{before:>26}{after:>18}{found['after'][2]:>6}/{sum(degrees) + 1}")
    return lines, worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--degrees", type=int, nargs=2, default=(5, 4))
    parser.add_argument("--channels", action="store_true", help="units per channel")
    parser.add_argument("--no-write", action="store_true")
    arguments = parser.parse_args()
    degrees = tuple(arguments.degrees)
    if arguments.channels:
        lines, worst = by_channel(degrees)
        return finish(lines, worst, arguments, "-channels")
    lines = [
        f"Padé units of degrees {degrees}: condition number (largest eigenvalue) of the mean squared gradient",
        f"{'unit':14}{'source':8}{'inputs':20}{'before':>22}{'after':>18}{'train':>8}",
    ]
    fewest = 10**9
    worst = {"before": [0.0, 0.0], "after": [0.0, 0.0]}
    show: Callable[[tuple[float, float]], str] = lambda pair: f"{pair[0]:.2g} ({pair[1]:.2g})"  # noqa: E731
    for name in UNITS:
        for source in SOURCES:
            for label, values in distributions().items():
                unit, x = unit_for(name, source, Histogram.of(values), degrees), torch.from_numpy(values)
                found = {"before": spectrum(unit, x, False), "after": spectrum(unit, x, True)}
                for when, pair in found.items():
                    worst[when] = [max(a, b) for a, b in zip(worst[when], pair, strict=True)]
                count = int(trained(unit).sum())
                fewest = min(fewest, count)
                shown = f"{show(found['before']):>22}{show(found['after']):>18}{f'{count}/{len(unit.radius)}':>8}"
                lines.append(f"{name:14}{source:8}{label:20}{shown}")
    lines.append(f"fewest coordinates that train: {fewest} of {sum(degrees) + 1}")
    return finish(lines, worst, arguments, "")


def finish(lines: list[str], worst: dict[str, list[float]], arguments: argparse.Namespace, suffix: str) -> int:
    """Print the table, write it, and return the exit code."""
    shown = ", ".join(f"{when} {pair[0]:.2g} ({pair[1]:.2g})" for when, pair in worst.items())
    lines.append(f"worst: {shown}")
    print("\n".join(lines))
    degrees = tuple(arguments.degrees)
    if not arguments.no_write:
        suffix += "" if degrees == (5, 4) else f"-{degrees[0]}_{degrees[1]}"
        (RESULTS / f"conditioning-{datetime.date.today().isoformat()}{suffix}.txt").write_text("\n".join(lines) + "\n")
    return 1 if worst["after"][0] > CONDITION or worst["after"][1] > LARGEST else 0


if __name__ == "__main__":
    sys.exit(main())
