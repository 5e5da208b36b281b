"""Build the CPU kernels in place: `python -m actswap.ops.build` in a checkout of the sources.

The environment variable `ACTSWAP_BUILD_FOLDER` names a folder that keeps the objects, so that the next build compiles
only what has changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from actswap.errors import UsageError
from actswap.ops.how_to_build import SOURCE, advice
from actswap.ops.libraries import FOLDERS, PACKAGE, stem_of


def build(source: Path = SOURCE, package: Path = PACKAGE, options: tuple[str, ...] = ()) -> list[Path]:
    """Configure and build with CMake, and put the libraries into the package.

    Args:
        source: the folder `native` of the sources.
        package: the folder of the package.
        options: further arguments of `cmake -S`, e.g. `-DACTSWAP_SANITIZE=ON`.

    Returns:
        The libraries' paths.

    Raises:
        UsageError: there are no sources, no CMake or no compiler, or the build fails.
    """
    if not (source / "CMakeLists.txt").exists():
        why = "this is not a checkout"
        raise UsageError("no kernel sources", where=str(source), why=why, fix=advice())
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if cmake is None:
        raise UsageError("the kernels are not built", why="CMake is missing", fix="pip install cmake")
    with tempfile.TemporaryDirectory() as passing:
        folder = os.environ.get("ACTSWAP_BUILD_FOLDER") or passing
        python = f"-DPython_EXECUTABLE={sys.executable}"
        for command in ([cmake, "-S", str(source), "-B", folder, python, *options], [cmake, "--build", folder, "-j2"]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise UsageError("the kernels are not built", why=(done.stdout + done.stderr)[-2000:])
        made = [(p, stem_of(p.name)) for p in sorted(Path(folder).rglob("*")) if p.is_file()]
        found = [(p, package / FOLDERS[stem] / p.name) for p, stem in made if stem is not None]
        if not found:
            raise UsageError("the kernels are not built", why="no C++ compiler", fix="apt-get install g++")
        return [_replace(p, target) for p, target in found]


def _replace(built: Path, target: Path) -> Path:
    """Put a library in place by renaming: a process that has the old one mapped keeps it."""
    beside = target.with_name(f".{target.name}.new")
    shutil.copy(built, beside)
    return beside.replace(target)


if __name__ == "__main__":
    try:
        sys.stdout.write("".join(f"{path}\n" for path in build()))
    except UsageError as error:
        sys.exit(str(error))
