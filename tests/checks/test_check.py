"""A proof fails if a check failed; what could not be proved is no failure."""

from __future__ import annotations

import json

import pytest

from actswap.checks.check import Check, Proof, few_names

PASSED, FAILED, OPEN = Check("a", True, ""), Check("b", False, "", 0.5, 0.1, ("w",)), Check("c", None, "")


def test_only_a_failed_check_fails_the_proof() -> None:
    assert Proof(()).ok and Proof((PASSED, OPEN)).ok and not Proof((PASSED, FAILED, OPEN)).ok
    assert Proof((PASSED, FAILED, OPEN)).failed == (FAILED,)


def test_checks_are_found_by_name() -> None:
    assert Proof((PASSED, FAILED))["b"] is FAILED
    with pytest.raises(KeyError):
        Proof((PASSED,))["b"]


def test_json_holds_every_field() -> None:
    data = json.loads(json.dumps(Proof((FAILED,)).to_dict()))
    expected = {"name": "b", "passed": False, "said": "", "error": 0.5, "limit": 0.1, "names": ["w"]}
    assert data == {"ok": False, "checks": [expected]}


def test_more_than_four_names_are_counted() -> None:
    assert few_names(list("abcd")) == "a, b, c, d" and few_names(list("abcdef")) == "a, b, c, d and 2 more"
