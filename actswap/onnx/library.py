"""Where the custom-operator library is, and whether this ONNX Runtime takes it."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import onnx
import onnx.parser

from actswap.errors import ExportError, first_line
from actswap.ops import libraries

_REGISTERED = "actswap.kernels"  # session entry that says which library was registered
_PROBE = """<ir_version: 8, opset_import: ["" : 18, "actswap" : 1]>
probe (float[2] x, float beta) => (float[2] y) { y = actswap.Swish (x, beta) }"""


def find_library() -> Path | None:
    """Return the library's file, None if it was not built; `ACTSWAP_ORT_LIBRARY` names another one."""
    return libraries.find("actswap_ort", sys.path)


def library_path() -> str:
    """Return the library's path for `register_custom_ops_library`, in any language.

    Raises:
        ExportError: it was not built.

    >>> libraries.find("actswap_ort") is None or Path(library_path()).is_file()
    True
    """
    path = find_library()
    if path is None:
        raise ExportError(
            "the ONNX Runtime library of actswap is not there",
            why="it is built with the package if there is a C++ compiler; files run without it, only slower",
            fix="install g++ and reinstall actswap",
        )
    return str(path)


def instruction_set() -> str:
    """Return the instruction set that the library's kernels use here, "" if there is no library that can say."""
    path = find_library()
    try:
        isa = ctypes.CDLL(str(path)).actswap_ort_isa if path is not None else None
    except (OSError, AttributeError):
        return ""
    if isa is None:
        return ""
    isa.restype = ctypes.c_char_p
    return str(isa().decode())


def register(options: Any) -> str:
    """Register the library with session options, unless it is registered already.

    ONNX Runtime takes options with a library registered twice, and then refuses to open any session with them.

    Args:
        options: `onnxruntime.SessionOptions`, new or used before.

    Returns:
        "", or why it could not be registered, in words.
    """
    path = find_library()
    if path is None:
        return "the library was not built (no C++ compiler at install)"
    if _is_registered(options):
        return ""
    try:
        options.register_custom_ops_library(str(path))
        options.add_session_config_entry(_REGISTERED, str(path))
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        return f"{path.name}: {first_line(error)}"
    return ""


def _is_registered(options: Any) -> bool:
    """Return whether the library is registered with these options, by us or by the user."""
    try:
        return bool(options.get_session_config_entry(_REGISTERED))
    except Exception:  # ONNX Runtime raises if there is no such entry: the user may have registered it
        return _knows_our_operators(options)


def _knows_our_operators(options: Any) -> bool:
    """Return whether a session with these options knows an operator of the library, by opening a tiny model."""
    import onnxruntime

    model = onnx.parser.parse_model(_PROBE).SerializeToString()
    kept = options.enable_profiling, options.optimized_model_filepath, options.log_severity_level
    # The user's profile and optimised model are those of the user's model.
    options.enable_profiling, options.optimized_model_filepath, options.log_severity_level = False, "", 4
    try:
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    finally:
        options.enable_profiling, options.optimized_model_filepath, options.log_severity_level = kept
    return True
