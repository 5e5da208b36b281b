"""The Pareto front against its definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actswap.search.front import pareto_front

POINTS = st.lists(st.tuples(*[st.integers(0, 6)] * 2), max_size=12) | st.lists(
    st.tuples(*[st.integers(0, 3)] * 3), max_size=12
)


@given(POINTS)
def test_front(points: list[tuple[int, ...]]) -> None:
    kept = pareto_front(points)

    def beats(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    best = {p for p in points if not any(beats(other, p) for other in points)}
    assert {points[i] for i in kept} == best and len(kept) == len(best)
    assert all(i == points.index(points[i]) for i in kept), "of equal points the first"
