"""Import libraries that build models, torchvision even if its compiled part does not fit the installed torch."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
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
    return with_torchvision(lambda: importlib.import_module(name))


def with_torchvision(action: Callable[[], Any]) -> Any:
    """Do something that may import torchvision on its way: a factory, a package of the user's, a pickle.

    If the import fails because of the missing operators, they are declared and the action is done again.
    """
    try:
        return action()
    except (RuntimeError, ImportError) as problem:
        if not _lacks_operators(problem):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # halves of the failed import
        _declare_torchvision_operators()
        return action()


def _lacks_operators(problem: BaseException | None) -> bool:
    """True if the operators are what was missing; transformers raises another error from that one."""
    while problem is not None:
        if "torchvision::nms" in str(problem):
            return True
        problem = problem.__cause__ or problem.__context__
    return False


@functools.cache
def _declare_torchvision_operators() -> Any:
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
