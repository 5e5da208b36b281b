"""The census: how many activation calls really happen, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from actswap.recognize.locate import Located


@dataclass(frozen=True)
class Census:
    """Activation calls of the original and of the converted model, by kind.

    Attributes:
        before: calls of the original: kind -> number.
        after: calls of the converted model; targets carry the prefix `actswap.`.
        replaced: calls that go to a target now.
        left: calls that were left on purpose.
        complete: replaced + left equals what ran before, and what runs after is what was planned.
    """

    before: Mapping[str, int]
    after: Mapping[str, int]
    replaced: int
    left: int
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def count(found: Iterable[Located]) -> dict[str, int]:
    """Count the activation calls of one observed forward pass by kind."""
    calls: Counter[str] = Counter()
    for owner in found:
        for site in owner.sites:
            if site is not None:
                calls[site.source.kind] += site.calls
    return dict(calls)


def census(before: Mapping[str, int], after: Mapping[str, int], replaced: int) -> Census:
    """Compare two counts; `replaced` is the number of calls that the plan sends to targets."""
    already = sum(n for kind, n in before.items() if kind.startswith("actswap."))
    arrived = sum(n for kind, n in after.items() if kind.startswith("actswap.")) - already
    left = sum(before.values()) - replaced
    stayed = sum(after.values()) - arrived
    return Census(dict(before), dict(after), arrived, left, arrived == replaced and stayed == left)
