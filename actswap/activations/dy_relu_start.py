"""Starts of DY-ReLU: exact for a maximum of two lines through 0, a fit for sources that are about convex."""

from __future__ import annotations

from actswap.activations.acon_start import channels_of
from actswap.activations.base import StartContext
from actswap.activations.bounded import refuse_capped, split
from actswap.activations.fitted import fit_lines
from actswap.activations.sharpness import slope_below
from actswap.errors import StartError
from actswap.sites import Source, Start

# Sources that K lines follow from above; the fit tells how well.
BENT = frozenset(
    (
        "elu",
        "celu",
        "selu",
        "silu",
        "swish",
        "quick_gelu",
        "gelu",
        "gelu_tanh",
        "mish",
        "hardswish",
        "softplus",
    )
)


def dy_relu_promise(source: Source) -> str:
    """Return the best start kind for a source; for a capped source, that of its core."""
    core = split(source).core
    slope = slope_below(core)
    if slope is not None:
        return "exact" if max(channels_of(slope)) <= 1.0 else "none"
    return "fit" if core.kind in BENT else "none"


def dy_relu_start(source: Source, context: StartContext, target: str) -> Start:
    """Start of a DY-ReLU: the hyper-network's last layer is zero, the lines are those of the source.

    Raises:
        StartError: the source has a cap, is concave (a slope above 1), or there is only one line.
    """
    refuse_capped(source, target)
    k, slope = int(context.options.get("k", 2)), slope_below(source)
    if dy_relu_promise(source) == "none" or k < 2:
        why = f"{k} line cannot bend" if k < 2 else "a maximum of lines is convex, and the source is not"
        raise StartError(f"{target} has no start for {source}", why=why, fix='start="morph"')
    if slope is None:
        return fit_lines(source, context, k)
    # Further lines lie between the two, below their maximum: distinct, so that they part in training.
    slopes = channels_of(slope)
    rows = [[1.0 + (s - 1.0) * place for s in slopes] for place in _places(k)]
    init = [a for row in rows for a in row] + [0.0] * (k * len(slopes))
    return Start("exact", {"fc2.weight": 0.0, "fc2.bias": 0.0, "init": tuple(init)}, bound=0.0)


def _places(k: int) -> list[float]:
    """Where between slope 1 (at 0) and the source's slope (at 1) the lines lie."""
    return [0.0, 1.0] + [n / (k - 1) for n in range(1, k - 1)]
