"""What a prepared model depends on: the runtime's version, the processor, the library."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import re
from pathlib import Path

from actswap.onnx.functions import VERSION
from actswap.onnx.library import find_library

# Raised when `prepare` makes another model from the same file, so that cached ones are made anew.
METHOD = 7


@functools.cache
def machine_key() -> str:
    """Return `onnxruntime version, processor, library`, the processor and the library as hashes."""
    import onnxruntime

    library = find_library()
    built = _digest(library.read_bytes()) if library is not None and library.is_file() else "none"
    runtime = f"onnxruntime {onnxruntime.__version__}"
    return f"{runtime}, processor {_processor()}, library {built} of domain {VERSION}, method {METHOD}"


def suits_this_machine(key: str) -> bool:
    """Return whether a model prepared under another `machine_key` runs here too.

    The runtime and the processor must be the same, and the version of the domain. Another build of the library computes
    the same; what must not meet its kernels says so by `prepared_for`.

    >>> suits_this_machine(machine_key()), suits_this_machine("onnxruntime 1.0.0, processor ?, library ? of domain 1")
    (True, False)
    """
    return _needs(key) == _needs(machine_key())


def _needs(key: str) -> tuple[str, str]:
    """Return what of a key must be the same: the runtime and processor, and the domain's version."""
    start, _, rest = key.partition(", library ")
    domain = re.search(r"of domain (\d+)", rest)
    return start, domain[1] if domain else ""


@functools.cache
def prepared_for() -> str:
    """Return the text that the nodes of a prepared file carry; the kernels refuse a node with another one.

    They compare it before anything else, in any language: `onnxruntime 1.31.1, kernels 1`.
    """
    import onnxruntime

    library = find_library()
    kernels = ctypes.CDLL(str(library)).actswap_ort_prepared_version() if library is not None else 0
    return f"onnxruntime {onnxruntime.get_version_string()}, kernels {kernels}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        rows = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    except OSError:
        rows = []
    return _digest("\n".join([platform.machine(), platform.processor(), *rows]).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
