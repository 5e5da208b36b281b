"""Imports go downward only, and only the layers that may import a heavy library do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "actswap"

# From the bottom up; a module may import from its own layer and from those below it.
LAYERS: list[set[str]] = [
    {"errors", "sites", "files"},
    {"ops", "fit"},
    {"activations"},
    {"select", "recognize", "capture", "vetting", "folders", "inputs", "census", "calibrate"},
    {"plan"},
    {"passes"},
    {"apply", "survey", "starts", "settle", "parity"},
    {"cost", "bundle", "onnx", "loading", "conversion"},
    {"train", "search", "report", "recipe"},
    {"nn", "functional"},
    {"cli"},
]
# `parity` compares outputs and knows nothing of plans: the lower layers may use its arithmetic.
SHARED = {"parity"}
ONLY = {
    "onnx": {"onnx", "cli"},
    "onnxruntime": {"onnx", "cli"},
    "onnxscript": {"onnx"},
    "fvcore": {"cost"},
    "click": {"cli"},
    "rich": {"cli"},
}


def layer_of(top: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if top in names)


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name != "__init__.py")


def top_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int]]:
    """Absolute names of what a file imports, those inside functions too, with their lines."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"actswap.{a.name}" for a in node.names] if node.module == "actswap" else [node.module]
            found += [(name, node.lineno) for name in names]
    return found


def test_every_module_has_a_layer():
    known = set().union(*LAYERS)
    assert {top_of(path) for path in modules()} <= known


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    own = top_of(path)
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] == "actswap" and len(parts) > 1 and parts[1] != own and parts[1] not in SHARED:
            assert layer_of(parts[1]) <= layer_of(own), f"{path}:{line} imports {name} from a layer above it"
        if parts[0] in ONLY:
            assert own in ONLY[parts[0]], f"{path}:{line} imports {parts[0]}"


def test_fit_never_imports_modules_of_torch():
    for path in (PACKAGE / "fit").glob("*.py"):
        assert not any(name.startswith("torch.nn") for name, _ in imports(path)), path


def test_only_the_command_line_prints():
    for path in modules():
        if top_of(path) == "cli" or path.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not called, f"{path}:{node.lineno} prints"
