"""The layers of the package, stated once: imports go downward only, without circles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "actswap"

# From the top down, as in ARCHITECTURE.md. A module may import from its own layer and from the layers below it.
LAYERS = (
    ("cli",),
    ("nn", "functional"),
    ("recipe", "report", "search"),
    ("train",),
    ("onnx",),
    ("io",),
    ("conversion",),
    ("checks",),
    ("inputs", "plan", "record"),
    ("capture", "recognize", "select"),
    ("activations",),
    ("ops", "fit"),
    ("errors", "sites"),
)
# Only these layers, or single modules, may import these libraries.
ONLY = {
    "onnx": ("actswap.onnx", "actswap.cli"),
    "onnxruntime": ("actswap.onnx", "actswap.cli"),
    "onnxscript": ("actswap.onnx",),
    "onnx_ir": ("actswap.onnx",),
    "fvcore": ("actswap.checks.cost",),
    "click": ("actswap.cli",),
    "rich": ("actswap.cli",),
}
MOST_LINES = 400
SUFFIXES = (".py", ".pyi", ".cpp", ".h")
LOOSE = {"errors", "sites", "plan", "record", "select", "inputs", "nn", "functional"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for suffix in ("py", "pyi") for path in sorted(PACKAGE.rglob(f"*.{suffix}"))}
INNER = [name for name in MODULES if name != "actswap"]  # the package's face resolves its names lazily


def imports(path: Path) -> list[tuple[str, int]]:
    """Full names of all that a file imports, functions included, with line numbers."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno} is a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append((inner if inner in MODULES else node.module, node.lineno))
    return found


def layer_of(name: str) -> int:
    top = name.split(".")[1]
    return next(i for i, names in enumerate(LAYERS) if top in names)


def upward_imports() -> list[str]:
    found = []
    for name in INNER:
        for imported, line in imports(MODULES[name]):
            if imported == "actswap":  # the face reaches every layer, whatever is taken from it
                found.append(f"{MODULES[name]}:{line} imports the package's face")
            elif imported.startswith("actswap.") and layer_of(imported) < layer_of(name):
                found.append(f"{MODULES[name]}:{line} imports {imported} from a layer above it")
    return found


def circles() -> list[list[str]]:
    """Groups of modules that import each other, at any depth."""
    below = {name: {i for i, _ in imports(MODULES[name]) if i in MODULES and i != name} for name in INNER}

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        stack = [start]
        while stack:
            for following in below.get(stack.pop(), ()):
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
        return seen

    reach = {name: reached(name) for name in INNER}
    groups = {tuple(sorted(o for o in reach[n] if n in reach[o])) for n in INNER if n in reach[n]}
    return [list(group) for group in sorted(groups)]


def loose_modules() -> set[str]:
    return {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}


def without_test_file() -> list[str]:
    """Modules that have no test file in the same place below tests/."""
    tests = ROOT / "tests"
    modules = [p.relative_to(PACKAGE) for p in sorted(PACKAGE.rglob("*.py")) if not p.name.startswith("__")]
    return [str(p) for p in modules if not (tests / p.parent / f"test_{p.name}").exists()]


def test_every_module_has_a_layer() -> None:
    known = {name for names in LAYERS for name in names}
    assert {name.split(".")[1] for name in INNER} == known


def test_architecture_states_the_same_layers() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text[text.index("## Layers") : text.index("## To add")]
    stated = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    assert stated == [", ".join(names) for names in LAYERS]
    loose = section[section.index("Eight modules") : section.index("No module has")]
    assert {name for name in LOOSE if f"`{name}`" in loose} == LOOSE


def test_imports_go_downward() -> None:
    assert upward_imports() == []


def test_no_modules_import_each_other() -> None:
    assert circles() == []


def test_the_top_level_holds_the_words_and_the_public_faces_only() -> None:
    assert loose_modules() == LOOSE


def too_long() -> list[str]:
    """Source files of more than MOST_LINES lines."""
    folders = ("actswap", "tests", "benchmarks", "recipes", "native")
    files = [
        p for folder in folders for suffix in ("py", "pyi", "cpp", "h") for p in (ROOT / folder).rglob(f"*.{suffix}")
    ]
    counts = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in sorted(files)}
    return [f"{name}: {count} lines" for name, count in counts.items() if count > MOST_LINES]


def test_no_file_is_too_long_for_one_reading() -> None:
    assert too_long() == []


def test_every_module_has_its_test_file() -> None:
    assert without_test_file() == []


@pytest.mark.parametrize("library", ONLY)
def test_heavy_libraries_are_imported_by_their_layer_only(library: str) -> None:
    users = [n for n in MODULES for i, _ in imports(MODULES[n]) if i.split(".")[0] == library]
    assert users, f"nothing imports {library}"
    assert [name for name in users if not name.startswith(ONLY[library])] == []


def test_fit_never_imports_modules_of_torch() -> None:
    for name in INNER:
        if name.startswith("actswap.fit"):
            assert not any(i.startswith("torch.nn") for i, _ in imports(MODULES[name])), name


def test_only_the_command_line_prints() -> None:
    for name in INNER:
        if name.startswith("actswap.cli") or name.endswith("__main__"):
            continue
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not called, f"{MODULES[name]}:{node.lineno} prints"


if __name__ == "__main__":  # the figures of the layout
    for what, found in (
        ("loose modules", sorted(loose_modules())),
        ("circles", circles()),
        ("upward imports", upward_imports()),
        ("modules without a mirrored test file", without_test_file()),
        (f"files of more than {MOST_LINES} lines", too_long()),
    ):
        print(f"{what}: {len(found)}", *found, sep="\n  ")
