"""ONNX Runtime as the rest of this folder uses it: on the CPU, and without a word on stderr."""

from __future__ import annotations

import os
from typing import Any

import onnx

CPU = "CPUExecutionProvider"
_FATAL_ONLY = 4  # errors are raised as exceptions; the runtime's log would say them a second time


def quiet_options() -> Any:
    """Return new `onnxruntime.SessionOptions` that log nothing."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    return options


def cpu_session(model: onnx.ModelProto | bytes | str | os.PathLike[str], options: Any = None) -> Any:
    """Open a model in the CPU provider.

    Args:
        model: a model, its serialized bytes, or the path of a file.
        options: `onnxruntime.SessionOptions`; None makes quiet ones, without the kernels of the project.

    Returns:
        The `onnxruntime.InferenceSession`.
    """
    import onnxruntime

    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    elif not isinstance(model, bytes):
        model = os.fspath(model)
    return onnxruntime.InferenceSession(model, quiet_options() if options is None else options, providers=[CPU])
