"""The result of one check, and of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: what was compared: `perturbed weights`, `gradients`, ...
        passed: True if both agree, False if not, None if nothing could be proved.
        said: one sentence that says what was found, or why nothing was proved.
        error: the largest error measured, None if there is no number.
        limit: the largest error that passes.
        names: the parameters or modules that differ.
    """

    name: str
    passed: bool | None
    said: str
    error: float | None = None
    limit: float | None = None
    names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "names": list(self.names)}


@dataclass(frozen=True)
class Proof:
    """All checks of a pair of models except the outputs and the census.

    Attributes:
        checks: the checks, in the order in which they were made.
    """

    checks: tuple[Check, ...] = ()

    @property
    def ok(self) -> bool:
        """True if no check failed. A check that proved nothing did not fail."""
        return all(check.passed is not False for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.passed is False)

    def __getitem__(self, name: str) -> Check:
        """Return the check of that name."""
        return {check.name: check for check in self.checks}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"ok": self.ok, "checks": [check.to_dict() for check in self.checks]}


def few_names(names: Mapping[str, Any] | tuple[str, ...] | list[str]) -> str:
    """Return at most four names as a text."""
    listed = list(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
