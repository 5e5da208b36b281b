"""Starts of the ACON family: exact for Swish, limits for ReLU and its leaky forms, fits for the rest.

Every start is found as (p1, p2, beta) of ACON-C; a member that lacks some of them asks for values it has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from actswap.activations.base import StartContext
from actswap.activations.bounded import refuse_capped, split
from actswap.activations.fitted import fit_acon_c
from actswap.activations.plain import PLAIN
from actswap.activations.sharpness import (
    GAP,
    refuse_offset,
    sharpness,
    slope_below,
    swish_beta,
    vanishes_at_zero,
)
from actswap.errors import StartError
from actswap.sites import Number, Source, Start


@dataclass(frozen=True)
class Member:
    """What a member of the family can vary.

    Attributes:
        name: the activation's name, for messages.
        slopes: which of p1 and p2 it has: `""` (1 and 0 are fixed), `"p2"` (p1 is 1) or `"p1 p2"`.
    """

    name: str
    slopes: str


def channels_of(value: Number) -> tuple[float, ...]:
    """The numbers of all channels, or the one number."""
    return value if isinstance(value, tuple) else (value,)


def refuse_sharing(source: Source, context: StartContext, target: str) -> None:
    """Raise StartError if the source differs by channel and the target is shared by the layer."""
    rows = {value for _, values in source.params if isinstance(values, tuple) for value in values}
    if len(rows) > 1 and not context.options.get("per_channel", True):
        raise StartError(
            f"{target} has no start for {source}",
            why="the source differs by channel, and the unit is shared by the layer",
            fix="option per_channel=True",
        )


def acon_promise(source: Source, member: Member) -> Literal["exact", "limit", "fit", "none"]:
    """Return the best start kind for a source; for a capped source, that of its core."""
    source = split(source).core
    slope = slope_below(source)
    if swish_beta(source) is not None or (source.kind == "acon_c" and member.slopes == "p1 p2"):
        return "exact"
    if slope is not None and (member.slopes or all(s == 0.0 for s in channels_of(slope))):
        return "exact" if all(s == 1.0 for s in channels_of(slope)) else "limit"
    return "fit" if vanishes_at_zero(source) else "none"


def acon_lines(source: Source, context: StartContext, member: Member) -> tuple[Number, Number, Number, Start]:
    """The start as p1, p2, beta, and a Start that still lacks its parameters.

    A slope s above 1 makes the source min(x, s x): there beta is negative. A channel with slope exactly 1 is
    linear, which every beta gives exactly.

    Raises:
        StartError: the source has a cap, or is not 0 at 0.
    """
    refuse_capped(source, member.name)
    refuse_sharing(source, context, member.name)
    refuse_offset(source, member.name)
    promise, beta, slope = acon_promise(source, member), swish_beta(source), slope_below(source)
    if beta is not None:
        return 1.0, 0.0, beta, Start("exact")
    if source.kind == "acon_c" and promise == "exact":
        p1, p2, own = (source.get(name, PLAIN["acon_c"].constants[name]) for name in ("p1", "p2", "beta"))
        return p1, p2, own, Start("exact", bound=0.0)
    if slope is None or promise == "fit":
        return fit_acon_c(source, context, member.slopes)
    signed = tuple(-context.beta if s > 1.0 else context.beta for s in channels_of(slope))
    sharp: Number = signed if isinstance(slope, tuple) else signed[0]
    return 1.0, slope, sharp, Start(promise, bound=0.0 if promise == "exact" else GAP / context.beta)


def acon_start(source: Source, context: StartContext, member: Member) -> Start:
    """Start of swish, acon_a, acon_b or acon_c: parameters p1, p2 or p, log_beta and beta_sign."""
    p1, p2, beta, start = acon_lines(source, context, member)
    named: dict[str, Number] = {"": {}, "p2": {"p": p2}, "p1 p2": {"p1": p1, "p2": p2}}[member.slopes]
    return replace(start, params={**named, **sharpness(beta)})
