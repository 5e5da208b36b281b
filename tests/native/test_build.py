"""The package's CMake project where there is no compiler."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"


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
