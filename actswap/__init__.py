"""actswap: replace the activations of a pretrained network by trainable ones that start where it is.

Names are resolved on first use, so that importing the package, or asking the command line for help, does not import
torch. The operators are declared on first use too: of `torch.ops.actswap`, for instance by `torch.export.load`.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actswap import functional as functional
    from actswap import nn as nn
    from actswap import onnx as onnx
    from actswap import ops as ops
    from actswap.activations import list_activations as list_activations
    from actswap.activations import register as register
    from actswap.activations.decompositions import decompositions as decompositions
    from actswap.checks.verify import verify as verify
    from actswap.conversion.apply import apply_plan as apply_plan
    from actswap.conversion.passes.revert import revert as revert
    from actswap.conversion.pipeline import convert as convert
    from actswap.conversion.survey import scan as scan
    from actswap.io.bundle import load as load
    from actswap.io.bundle import save as save
    from actswap.io.save_exported import export_program as export_program
    from actswap.io.switching import add_adapter as add_adapter
    from actswap.io.switching import use as use
    from actswap.io.trained import rebuild as rebuild
    from actswap.onnx.export import export_onnx as export_onnx
    from actswap.record import plan_of as plan_of
    from actswap.train.groups import param_groups as param_groups

_HOME = {
    "add_adapter": "actswap.io.switching",
    "apply_plan": "actswap.conversion.apply",
    "convert": "actswap.conversion.pipeline",
    "decompositions": "actswap.activations.decompositions",
    "export_onnx": "actswap.onnx.export",
    "export_program": "actswap.io.save_exported",
    "list_activations": "actswap.activations",
    "load": "actswap.io.bundle",
    "param_groups": "actswap.train.groups",
    "plan_of": "actswap.record",
    "register": "actswap.activations",
    "rebuild": "actswap.io.trained",
    "revert": "actswap.conversion.passes.revert",
    "save": "actswap.io.bundle",
    "scan": "actswap.conversion.survey",
    "use": "actswap.io.switching",
    "verify": "actswap.checks.verify",
}
_MODULES = {
    "cost": "actswap.checks.cost",
    "functional": "actswap.functional",
    "nn": "actswap.nn",
    "onnx": "actswap.onnx",
    "ops": "actswap.ops",
    "train": "actswap.train",
}
__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name == "__version__":
        from actswap.plan import tool_version

        return tool_version()
    if name not in _HOME:
        raise AttributeError(f"module 'actswap' has no attribute {name!r}")
    # A function may share its name with its module: actswap.convert is the function.
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _declare_on_first_use() -> None:
    """Make `torch.ops.actswap` declare the operators when one is asked for."""
    import torch

    class Namespace(type(torch.ops.aten)):  # type: ignore[misc]
        __module__ = torch.ops.aten.__module__  # programs are stored with operators by this name

        def __getattr__(self, name: str) -> Any:
            importlib.import_module("actswap.activations")
            return super().__getattr__(name)

    if "actswap" not in vars(torch.ops):
        vars(torch.ops)["actswap"] = Namespace("actswap")


class _AfterTorch(MetaPathFinder):
    """Finds torch as the other finders do, and has `_declare_on_first_use` run when it has been imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "torch":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_declare(module: Any) -> None:
                execute(module)
                _declare_on_first_use()

            spec.loader.exec_module = execute_and_declare  # type: ignore[method-assign]
        return spec


if "torch" in sys.modules:
    _declare_on_first_use()
else:
    sys.meta_path.insert(0, _AfterTorch())
