"""The Pareto front of points of which every coordinate is to be small."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other point is at least as good as in everything and better in one.

    Of equal points the first one is kept.

    >>> pareto_front([(1.0, 5.0), (2.0, 3.0), (2.0, 4.0), (2.0, 3.0), (3.0, 3.0)])
    [0, 1]
    """
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (tuple(points[i]), i)):
        if not any(all(a <= b for a, b in zip(points[k], points[i], strict=True)) for k in kept):
            kept.append(i)
    return sorted(kept)
