"""Every public function and class shows how it is called: an example in its docstring, run by `make examples`."""

from __future__ import annotations

import importlib
import inspect

import pytest

FACES = ("actswap", "actswap.nn", "actswap.functional", "actswap.onnx", "actswap.train")


def public(face: str) -> list[str]:
    """The public names of a module that are functions or classes."""
    module = importlib.import_module(face)
    names = getattr(module, "__all__", [])
    return [n for n in names if inspect.isroutine(getattr(module, n)) or inspect.isclass(getattr(module, n))]


NAMES = [(face, name) for face in FACES for name in public(face)]


def test_the_faces_are_public() -> None:
    assert {face for face, _ in NAMES} == set(FACES)


@pytest.mark.parametrize(("face", "name"), NAMES)
def test_a_public_name_has_an_example(face: str, name: str) -> None:
    text = inspect.getdoc(getattr(importlib.import_module(face), name)) or ""
    assert ">>> " in text, f"{face}.{name} has no example in its docstring"
