"""How Padé units start: fits by channel, and coordinates for the inputs that each channel sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from actswap.activations.base import StartContext
from actswap.activations.bounded import refuse_capped
from actswap.activations.fitted import fit_rational, histogram_of
from actswap.activations.rational import TINY, mixing
from actswap.errors import StartError
from actswap.fit.histogram import Histogram
from actswap.fit.points import Array
from actswap.fit.rational import PadeFit
from actswap.sites import Number, Source

_FEWEST, _NARROWEST = 32, 1e-3  # values of a channel, and their spread as a share of the layer's, to go by them
_STEP = 0.1  # channels whose means (in deviations) or log deviations differ by less share their coordinates


@lru_cache(maxsize=64)
def default_fit(degrees: tuple[int, int], form: str, basis: str = "") -> PadeFit:
    """The unit that the literature begins with: LeakyReLU on [-3, 3]."""
    context = StartContext(histogram=Histogram.uniform(-3.0, 3.0))
    return fit_rational(Source.of("leaky_relu", slope=0.01), context, degrees, form, basis)[0]


def start_params(
    names: tuple[str, str],
    basis_and_form: tuple[str, str],
    rows: Sequence[tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]],
    context: StartContext,
) -> dict[str, Number]:
    """The start values of a unit: coefficients and tails by channel, and coordinates for the histogram of the site.

    Coordinates of channels that were recorded apart are those of each channel's own histogram.

    Args:
        names: the paper's names of numerator and denominator.
        basis_and_form: as of the module.
        rows: numerator, denominator and tails (s, lo, hi, slopes) of each channel, or of the layer.
        context: its histogram says where the unit is used.
    """
    h = histogram_of(context)
    endless = context.options.get("tails") == "none"
    known: dict[tuple[int, tuple[int, int] | None], int] = {}
    kinds: list[int] = []
    mixes: list[Array] = []
    radii: list[Array] = []
    for channel in range(max(len(rows), len(h.channels))):
        which = channel if len(rows) > 1 else 0
        own = h.channels[channel] if channel < len(h.channels) else h
        if own.count < _FEWEST or own.std < _NARROWEST * h.std:
            own = h  # nothing is known about this channel, or it is constant
        kind = (which, _place(own, h))
        if kind not in known:
            top, bottom, (scale, low, high, *_) = rows[which]
            ends = (-math.inf, math.inf) if endless else (low, high)
            row = (*top, *(b or TINY for b in bottom), scale, *ends)
            mix, radius = mixing(basis_and_form, len(top), row, own.centroids, own.weights)
            known[kind] = len(mixes)
            mixes.append(mix.ravel())
            radii.append(radius)
        kinds.append(known[kind])
    return {
        names[0]: tuple(v for top, _, _ in rows for v in top),
        names[1]: tuple(v for _, bottom, _ in rows for v in bottom),
        "tails": tuple(v for _, _, tails in rows for v in tails),
        "mix": tuple(np.concatenate(mixes).tolist()),
        "radius": tuple(np.concatenate(radii).tolist()),
        **({"kinds": tuple(map(float, kinds))} if len(kinds) > 1 else {}),
    }


def _place(own: Histogram, joint: Histogram) -> tuple[int, int] | None:
    """Where and how wide a channel's inputs are, in steps within which channels share their coordinates."""
    if own is joint:
        return None
    return round(own.mean / (_STEP * own.std)), round(math.log(own.std) / _STEP)


def rational_fits(source: Source, context: StartContext, target: str, form: str, basis: str = "") -> list[PadeFit]:
    """One fit per distinct channel of the source; degrees and sharing come from the context's options.

    Raises:
        StartError: the source has a cap, or differs by channel although one set for the layer is asked for.
    """
    refuse_capped(source, target)
    degrees = tuple(context.options.get("degrees", (5, 4)))
    fits = fit_rational(source, context, (int(degrees[0]), int(degrees[1])), form, basis)
    if len(set(fits)) > 1 and context.options.get("per_channel") is False:
        raise StartError(
            f"{target} has no start for {source}",
            why="the source differs by channel, and per_channel=False shares the unit over the layer",
            fix="option per_channel=True",
        )
    return fits if len(set(fits)) > 1 else fits[:1]
