"""Build the CPU kernels in place: `python -m actswap.ops.build` in a checkout of the sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from actswap.errors import UsageError

SOURCE = Path(__file__).parents[2] / "native"


def build(source: Path = SOURCE, target: Path = Path(__file__).parent, options: tuple[str, ...] = ()) -> Path:
    """Configure and build with CMake, and put the library into `target`.

    Args:
        source: the folder `native` of the sources.
        target: where the library goes.
        options: further arguments of `cmake -S`, e.g. `-DACTSWAP_SANITIZE=ON`.

    Returns:
        The library's path.

    Raises:
        UsageError: there are no sources, no CMake or no compiler, or the build fails.
    """
    if not (source / "CMakeLists.txt").exists():
        raise UsageError(
            "no kernel sources", where=str(source), why="this is not a checkout", fix="pip install actswap"
        )
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if cmake is None:
        raise UsageError("the kernels are not built", why="CMake is missing", fix="pip install cmake")
    with tempfile.TemporaryDirectory() as folder:
        for command in ([cmake, "-S", str(source), "-B", folder, *options], [cmake, "--build", folder, "-j2"]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise UsageError("the kernels are not built", why=(done.stdout + done.stderr)[-2000:])
        found = sorted(Path(folder).glob("libactswap_kernels.*"))
        if not found:
            raise UsageError("the kernels are not built", why="no C++ compiler", fix="apt-get install g++")
        # Replaced, not overwritten: a process that has the old library mapped keeps it.
        beside = target / f".{found[0].name}.new"
        shutil.copy(found[0], beside)
        return beside.replace(target / found[0].name)


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
