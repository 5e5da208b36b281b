"""`actswap doctor`: versions, kernels and backends."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from actswap.cli.verb import Answer, table, verb

NEEDED = (
    "torch", "numpy", "scipy", "onnx", "onnxscript", "onnxruntime", "safetensors", "fvcore", "click", "rich",
)  # fmt: skip
OPTIONAL = ("torchvision", "timm", "transformers", "triton", "lightning-fabric")


@verb()
def command() -> Answer:
    """Check what is installed and which kernels are found; exits with 4 if something needed is missing."""
    found = {name: _version(name) for name in ("actswap", *NEEDED, *OPTIONAL)}
    backends = _backends()
    missing = sorted(name for name in NEEDED if found[name] is None)
    rows = table("", "component", "found")
    rows.add_row("python", platform.python_version())
    for name, number in found.items():
        rows.add_row(name, number or ("MISSING" if name in NEEDED else "-"))
    for name, text in backends.items():
        rows.add_row(name, str(text))
    verdict = f"missing: {', '.join(missing)}; try: pip install actswap" if missing else "all that is needed is here"
    data = {"python": platform.python_version(), "packages": found, "backends": backends, "missing": missing}
    return Answer(data, [rows, verdict], 4 if missing else 0)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _backends() -> dict[str, Any]:
    backends: dict[str, Any] = {"cpus": os.cpu_count(), "machine": platform.machine()}
    try:
        import torch
    except ImportError:
        return backends
    backends["torch capability"] = torch.backends.cpu.get_cpu_capability()
    backends["cuda"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    try:
        import onnxruntime

        backends["onnxruntime providers"] = ", ".join(onnxruntime.get_available_providers())
    except ImportError:
        backends["onnxruntime providers"] = None
    backends["kernels"] = _kernels()
    return backends


def _kernels() -> str:
    """Say which kernels of the project are found, and what to do if they are not."""
    from actswap.onnx.library import find_library
    from actswap.ops.native import status

    runtime = find_library()
    return f"{status().note}; ONNX Runtime library: {runtime.name if runtime else 'not built'}"
