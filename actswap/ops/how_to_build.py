"""How to get the CPU kernels if they are missing."""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).parents[2] / "native"


def advice() -> str:
    """Return the command that builds the kernels here: a checkout builds in place, a wheel is built again."""
    if (SOURCE / "CMakeLists.txt").exists():
        return "python -m actswap.ops.build"
    return "pip install --force-reinstall --no-deps --no-binary actswap actswap"
