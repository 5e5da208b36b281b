"""A torchvision whose compiled part does not fit is imported all the same; other errors stay what they are."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from actswap.io import torchvision_import
from actswap.io.torchvision_import import import_library, with_torchvision


def test_a_library_is_imported_under_its_name() -> None:
    assert import_library("torchvision.models") is sys.modules["torchvision.models"]
    with pytest.raises(ImportError):
        import_library("no_such_library_at_all")


def test_the_missing_operators_are_declared_and_the_action_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    declared: list[str] = []
    monkeypatch.setattr(torchvision_import, "_declare_torchvision_operators", lambda: declared.append("nms"))
    monkeypatch.setitem(sys.modules, "torchvision.half_imported", object())  # type: ignore[arg-type]
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torchvision"}

    def action() -> Any:
        if not declared:
            raise RuntimeError("operator torchvision::nms does not exist")
        return "torchvision.half_imported" in sys.modules

    try:
        assert with_torchvision(action) is False and declared == ["nms"]
    finally:
        sys.modules.update(kept)


def test_another_error_is_not_taken_for_it() -> None:
    calls: list[int] = []

    def action() -> None:
        calls.append(1)
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        with_torchvision(action)
    assert calls == [1]
