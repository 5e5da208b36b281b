"""Import libraries that build models, torchvision even if its compiled part does not fit the installed torch."""

from __future__ import annotations

import functools
import importlib
from contextlib import suppress
from typing import Any

import torch


def import_library(name: str) -> Any:
    """Import a module of a library.

    A torchvision wheel built for another torch raises "operator torchvision::nms does not exist" on import, although
    most of its models never call that operator. Declaring the operator lets them load; calling it still fails.

    Args:
        name: dotted name of the module.

    Returns:
        The module.
    """
    if name.partition(".")[0] in ("timm", "transformers"):  # both import torchvision, if it is installed
        with suppress(ImportError):
            import_library("torchvision")
    try:
        return importlib.import_module(name)
    except RuntimeError as problem:
        if "torchvision::nms" not in str(problem):
            raise
        _declare_torchvision_operators()
        return importlib.import_module(name)


@functools.cache
def _declare_torchvision_operators() -> Any:
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
