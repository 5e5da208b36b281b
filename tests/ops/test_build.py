"""The package's build where there is no compiler."""

import runpy
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from actswap.errors import UsageError
from actswap.ops import build, libraries

NATIVE = Path(__file__).parents[2] / "native"
# Not find_spec("pip"): setuptools takes that for pip's own process, and inductor can no longer import it.
_BACKEND = {"scikit-build-core", "pip"} <= {str(d.name).lower().replace("_", "-") for d in distributions()}


def _tool(name):
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


@pytest.mark.skipif(not (_tool("cmake") and _tool("ninja")), reason="needs cmake and ninja")
def test_without_a_compiler_it_configures_and_says_what_to_do(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ninja").symlink_to(_tool("ninja"))
    command = [_tool("cmake"), "-S", str(NATIVE), "-B", str(tmp_path / "build"), "-G", "Ninja"]
    environment = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "No C++ compiler" in done.stderr and "actswap.ops.build" in done.stderr


@pytest.mark.skipif(not (_tool("cmake") and _tool("ninja") and _BACKEND), reason="needs the build's tools")
def test_without_a_compiler_a_wheel_is_built_that_holds_the_package_and_no_library(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("cmake", "ninja"):
        (tmp_path / "bin" / name).symlink_to(_tool(name))
    root, source = NATIVE.parent, tmp_path / "source"
    shutil.copytree(root / "actswap", source / "actswap", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copytree(NATIVE, source / "native")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    options = ["--no-build-isolation", "--no-deps", "--no-index", "-w", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "wheel", str(source), *options]
    environment = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "actswap/ops/native.py" in names and not [n for n in names if n.endswith(".so")]


def test_what_to_run_fits_where_the_package_is(tmp_path, monkeypatch):
    assert libraries.advice() == "python -m actswap.ops.build"
    monkeypatch.setattr(libraries, "SOURCE", tmp_path / "native")  # as in site-packages, which has no sources
    assert libraries.advice().startswith("pip install") and "--no-binary actswap" in libraries.advice()
    with pytest.raises(UsageError, match="pip install"):
        build.build(libraries.SOURCE)


def test_the_command_ends_in_words_and_not_in_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(libraries, "SOURCE", tmp_path / "native")
    monkeypatch.delitem(sys.modules, "actswap.ops.build")  # as in a process of its own
    with pytest.raises(SystemExit, match="no kernel sources"):
        runpy.run_module("actswap.ops.build", run_name="__main__")
