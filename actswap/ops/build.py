"""Build the CPU kernels in place: `python -m actswap.ops.build` in a checkout of the sources.

What was built once from the same sources, by the same compiler and options, is taken from the user's cache folder. The
environment variable `ACTSWAP_BUILD_FOLDER` names a folder that keeps the objects, so that the next build compiles only
what has changed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from actswap.errors import UsageError
from actswap.ops.libraries import FOLDERS, PACKAGE, SOURCE, advice, stem_of


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
    kept = _cache(_digest(source, options))
    if ready := _own_files(kept):
        return [_replace(p, package / FOLDERS[stem] / p.name) for p, stem in ready]
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
        _keep([p for p, _ in found], kept)
        return [_replace(p, target) for p, target in found]


def _digest(source: Path, options: tuple[str, ...]) -> str:
    """Return what tells builds apart: the sources, the compiler, the options and this Python."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or ""
    version = subprocess.run([compiler, "--version"], capture_output=True).stdout if compiler else b""
    parts = [platform.machine(), sys.version, sys.executable, os.environ.get("CXXFLAGS", ""), *options]
    found = hashlib.sha256("\n".join(parts).encode() + version)
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        found.update(f"\n{file.relative_to(source)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return found.hexdigest()[:24]


def _cache(digest: str) -> Path:
    named = os.environ.get("ACTSWAP_CACHE")
    root = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "actswap"
    return root / "kernels" / digest


def _own_files(folder: Path) -> list[tuple[Path, str]]:
    """Return the libraries of a folder that only this user can write to, none if it is another's or not there."""
    try:
        about = folder.stat()
        mine = not hasattr(os, "getuid") or about.st_uid == os.getuid()
        if not mine or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return []
        return [(p, stem) for p in sorted(folder.iterdir()) if (stem := stem_of(p.name)) is not None]
    except OSError:
        return []


def _keep(built: list[Path], folder: Path) -> None:
    """Put built libraries into the cache, all at once; a cache that cannot be written is left out."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as beside:  # only this user can enter it
            ready = Path(beside) / "ready"
            ready.mkdir(mode=0o700)
            for library in built:
                shutil.copy(library, ready)
            ready.rename(folder)
    except OSError:
        return


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
