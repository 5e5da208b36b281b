"""What a prepared model depends on: the runtime's version, the processor, the library."""

from __future__ import annotations

import functools
import hashlib
import platform
from pathlib import Path

from actswap.onnx.functions import VERSION
from actswap.onnx.library import find_library

# Raised when `prepare` makes another model from the same file, so that cached ones are made anew.
METHOD = 5


@functools.cache
def machine_key() -> str:
    """`onnxruntime version, processor, library`, the processor and the library as hashes."""
    import onnxruntime

    library = find_library()
    built = _digest(library.read_bytes()) if library is not None and library.is_file() else "none"
    runtime = f"onnxruntime {onnxruntime.__version__}"
    return f"{runtime}, processor {_processor()}, library {built} of domain {VERSION}, method {METHOD}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        rows = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    except OSError:
        rows = []
    return _digest("\n".join([platform.machine(), platform.processor(), *rows]).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
