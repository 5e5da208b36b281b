"""Where the compiled libraries are, and how to get them: torch's kernels, their fast path, ONNX Runtime's operators.

CMake names a library as the system does: `libactswap_ort.so`, `libactswap_ort.dylib`, `actswap_ort.dll`.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SOURCE = PACKAGE.parent / "native"
# The folder of the package that each library is installed to.
FOLDERS = {"actswap_kernels": "ops", "_fast_path": "ops", "actswap_ort": "onnx"}
# The environment variable that names another file.
_OVERRIDES = {"actswap_kernels": "ACTSWAP_KERNELS_LIBRARY", "actswap_ort": "ACTSWAP_ORT_LIBRARY"}


def file_names(stem: str, platform: str = sys.platform) -> list[str]:
    """Return the names that a library may have on a platform, the usual one first.

    Args:
        stem: `actswap_kernels`, `actswap_ort` or `_fast_path`.
        platform: as `sys.platform` says.

    >>> file_names("actswap_ort", "darwin")
    ['libactswap_ort.dylib', 'libactswap_ort.so']
    """
    if stem == "_fast_path":
        return [stem + suffix for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    if platform in ("win32", "cygwin"):
        return [f"{stem}.dll", f"lib{stem}.dll"]
    return [f"lib{stem}{suffix}" for suffix in ((".dylib", ".so") if platform == "darwin" else (".so",))]


def stem_of(name: str) -> str | None:
    """Return which library a built file is, None if it is none of them.

    >>> stem_of("libactswap_ort.so"), stem_of("_fast_path.cp312-win_amd64.pyd"), stem_of("libm.so")
    ('actswap_ort', '_fast_path', None)
    """
    first, _, rest = name.partition(".")
    stem = first.removeprefix("lib")
    return stem if stem in FOLDERS and rest.rpartition(".")[2] in ("so", "dylib", "dll", "pyd") else None


def find(stem: str, path: Sequence[str] = ()) -> Path | None:
    """Return a library's file, None if it was not built.

    Args:
        stem: `actswap_kernels`, `actswap_ort` or `_fast_path`.
        path: further folders that hold a package `actswap`, as `sys.path` does: a checkout may stand before the
            installed package.
    """
    named = os.environ.get(_OVERRIDES.get(stem, ""))
    if named:
        return Path(named)
    folders = [PACKAGE, *(Path(folder) / "actswap" for folder in path)]
    files = (folder / FOLDERS[stem] / name for folder in folders for name in file_names(stem))
    return next((file for file in files if file.is_file()), None)


def advice() -> str:
    """Return the command that builds the libraries here: a checkout builds in place, a wheel is built again."""
    if (SOURCE / "CMakeLists.txt").exists():
        return "python -m actswap.ops.build"
    return "pip install --force-reinstall --no-deps --no-binary actswap actswap"
