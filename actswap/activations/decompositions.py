"""The operators of actswap in operators of PyTorch: for programs that run in a process without actswap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from actswap import ops
from actswap.activations import TRAINABLE
from actswap.ops.decompositions import by_aten


def decompositions() -> dict[Any, Callable[..., Tensor]]:
    """Return, for every operator of actswap, a function that computes it by aten operators alone.

    At finite x it computes what the operator does, to rounding. At infinite x it may give NaN; the operators give the
    limit.

    Returns:
        A table by operator (`torch.ops.actswap.acon_c.default`), for `ExportedProgram.run_decompositions`, for
        `make_fx`, and for whatever else takes such a table.

    >>> x = torch.tensor([1.0, 2.0])
    >>> torch.allclose(decompositions()[torch.ops.actswap.swish.default](x, torch.ones(1), 0), x * x.sigmoid())
    True
    """
    assert TRAINABLE, "importing the activations declares their operators"
    namespace = torch.ops.actswap
    return {getattr(namespace, name).default: by_aten(name, o.reference) for name, o in ops.operators().items()}
