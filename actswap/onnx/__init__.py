"""ONNX: export of converted models, inference with the native kernels, conversion of ONNX files."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "export_onnx": "export",
    "ExportReport": "export",
    "session": "sessions",
    "library_path": "library",
    "prepare_file": "prepare",
    "convert": "conversion",
    "translation_table": "torch_exporter",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    """Import on first use: onnx and onnxruntime are not loaded by `import actswap`."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
