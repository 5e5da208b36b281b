"""What a conversion returns: the model, the plan, and a report of what was done and proved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from actswap.checks.census import Census
from actswap.checks.check import Proof
from actswap.checks.parity import Parity
from actswap.plan import Choice, Plan
from actswap.sites import Site


@dataclass(frozen=True)
class Replaced:
    """One replaced site: what it became, how that starts, and its bound and error."""

    site: Site
    target: str
    start: str
    beta: float | None
    bound: float | None
    error: float | None
    note: str = ""

    @classmethod
    def of(cls, choice: Choice) -> Replaced:
        """Say what a choice of the plan became."""
        start = choice.start
        return cls(choice.site, choice.target, start.kind, start.beta, start.bound, start.error, start.note)


@dataclass(frozen=True)
class Left:
    """One site that was left, and why."""

    site: Site
    reason: str


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        target: the target asked for.
        replaced: the replaced sites, in the order in which they run.
        left: the others, each with its reason.
        parity: outputs of the original and of the converted model on the example inputs; None without `verify`, and on
            the meta device, where there are no values.
        census: activation calls before and after; None without `verify`.
        tolerance: the output error that was allowed, relative to how much the output varies.
        seconds: time of each step.
        peak_bytes: the most memory that the process has had resident so far; 0 if the system does not tell.
        proof: what was compared beside outputs and census; None unless `verify=True`.
        census_training: activation calls in train mode; None if that was not proved.
    """

    target: str
    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]
    parity: Parity | None
    census: Census | None
    tolerance: float
    seconds: Mapping[str, float]
    peak_bytes: int = 0
    proof: Proof | None = None
    census_training: Census | None = None

    @property
    def preserves(self) -> bool:
        """True if every start promises to keep the function of the network."""
        return all(r.start != "none" for r in self.replaced)

    @property
    def ok(self) -> bool:
        """True if no check failed: all calls accounted for, outputs within tolerance, nothing at odds in the proof."""
        counted = (self.census is None or self.census.complete) and (self.proof is None or self.proof.ok)
        return counted and (self.parity is None or not self.preserves or self.parity.rel <= self._allowed)

    @property
    def _allowed(self) -> float:
        """What is exact may be off by its rounding, which is large where an output hardly varies."""
        exact = self.parity is not None and all(r.start in ("exact", "morph") for r in self.replaced)
        return max(self.tolerance, self.parity.rounding) if exact and self.parity is not None else self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "target": self.target,
            "ok": self.ok,
            "replaced": [{**vars(r), "site": r.site.to_dict()} for r in self.replaced],
            "left": [{"site": e.site.to_dict(), "reason": e.reason} for e in self.left],
            "parity": None if self.parity is None else self.parity.to_dict(),
            "census": None if self.census is None else self.census.to_dict(),
            "census_training": None if self.census_training is None else self.census_training.to_dict(),
            "proof": None if self.proof is None else self.proof.to_dict(),
            "tolerance": self.tolerance,
            "seconds": dict(self.seconds),
            "peak_bytes": self.peak_bytes,
        }


@dataclass(frozen=True)
class Conversion:
    """The converted model, the plan that made it, and the report."""

    model: nn.Module
    plan: Plan
    report: Report
