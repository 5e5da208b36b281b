"""Selectors: which sites a request means, and what it says when it means none."""

from __future__ import annotations

import pytest

from actswap.errors import SelectionError
from actswap.select import select
from actswap.sites import Site, Source


def site(name: str, kind: str = "relu", role: str = "activation", form: str = "module") -> Site:
    return Site(name, Source(kind), role, form, name.rpartition(".")[0], "swap")


SITES = [
    site("stem.act", "silu"),
    site("layer1.0.relu"),
    site("layer1.0.relu@1"),
    site("layer1.se.gate", "sigmoid", "gate"),
    site("layer2.0.relu"),
    site("layer2.0.hardtanh", "hardtanh", form="function"),
    site("head.gelu", "gelu", form="method"),
    site("head.silu", "silu", form="formula"),
    site("glu", "glu", "gate"),
]


def chosen(only: object = None, skip: object = None) -> list[str]:
    return [s.name for s in select(SITES, only, skip)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("layer1.*", ["layer1.0.relu", "layer1.0.relu@1"]),
        ("layer?.0.relu", ["layer1.0.relu", "layer2.0.relu"]),
        ("layer1.0.relu", ["layer1.0.relu"]),
        ("layer1.0.relu@0", ["layer1.0.relu"]),
        ("layer1.0.relu@1", ["layer1.0.relu@1"]),
        ("layer1.0.relu*", ["layer1.0.relu", "layer1.0.relu@1"]),
        ("layer1.se.gate", ["layer1.se.gate"]),
        ("re:layer[12]\\.0", ["layer1.0.relu", "layer1.0.relu@1", "layer2.0.relu", "layer2.0.hardtanh"]),
        ("re:@1$", ["layer1.0.relu@1"]),
        ("type:silu", ["stem.act", "head.silu"]),
        ("source:silu", ["stem.act", "head.silu"]),
        ("source:glu", ["glu"]),
        ("form:formula", ["head.silu"]),
        ("form:functional", ["layer2.0.hardtanh", "head.gelu"]),
        ("type:sigmoid", ["layer1.se.gate"]),
        ("type:glu", ["glu"]),
        ("kind:functional", ["layer2.0.hardtanh", "head.gelu"]),
        ("kind:method", ["head.gelu"]),
        ("kind:formula", ["head.silu"]),
        ("role:gate", ["layer1.se.gate", "glu"]),
        ("first:2", ["stem.act", "layer1.0.relu"]),
        ("last:1", ["head.silu"]),
        ("last:100", [s.name for s in SITES if s.role != "gate"]),
    ],
)
def test_what_a_selector_means(selector: str, expected: list[str]) -> None:
    assert chosen(only=selector) == expected
    without_gates = [s.name for s in SITES if s.role != "gate" and s.name not in expected]
    assert chosen(skip=selector) == without_gates


def test_without_selectors_everything_but_gates() -> None:
    assert chosen() == [s.name for s in SITES if s.role != "gate"]
    assert chosen(only=[], skip=[]) == chosen()


def test_several_selectors_are_a_union_and_skip_wins() -> None:
    assert chosen(only=["type:silu", "first:1", "glu"]) == ["stem.act", "head.silu", "glu"]
    assert chosen(only=["layer1.*", "layer2.*"], skip="*@1") == [
        "layer1.0.relu",
        "layer2.0.relu",
        "layer2.0.hardtanh",
    ]


def test_order_is_that_of_the_sites() -> None:
    assert chosen(only=["last:1", "first:1"]) == ["stem.act", "head.silu"]


def test_all_misses_are_named_with_what_is_near() -> None:
    with pytest.raises(SelectionError) as caught:
        select(SITES, ["layer1.0.rleu", "type:silu"], ["heda.gelu"])
    text = str(caught.value)
    assert "'layer1.0.rleu' matched 0 of 9 sites (nearest: layer1.0.relu" in text
    assert "skip 'heda.gelu'" in text and "head.gelu" in text
    assert "type:silu" not in text
    assert "scan" in caught.value.fix


@pytest.mark.parametrize("selector", ["first:x", "last:", "first:-1", "re:["])
def test_selectors_that_cannot_be_read(selector: str) -> None:
    with pytest.raises(SelectionError, match="cannot read selector") as caught:
        select(SITES, selector)
    assert caught.value.fix


@pytest.mark.parametrize("selector", ["type:rleu", "kind:modul", "role:gates", "", "first:0"])
def test_selectors_that_match_nothing(selector: str) -> None:
    with pytest.raises(SelectionError, match="matched 0 of 9"):
        select(SITES, selector)


def test_a_selector_is_case_sensitive_and_whole() -> None:
    for selector in ("LAYER1.*", "layer1", "relu"):
        with pytest.raises(SelectionError):
            select(SITES, selector)
