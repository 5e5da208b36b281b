"""The fast path into the CPU core: an extension of Python that makes a plain call in one step.

It is built with the kernels (native/torch). If it is missing, or torch has no DLPack table, calls go through ctypes:
the same results, some microseconds later.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from actswap.ops._fast_path import FastPath

# A call is plain if none of these is on: they must see the operator, not what it does to memory.
_GUARDS = (
    torch._C._len_torch_function_stack,
    torch._C._len_torch_dispatch_stack,
    torch._C._are_functorch_transforms_active,
    torch._C._is_tracing,
)


def connect(run: int, small: int) -> type[FastPath] | None:
    """Return the class of fast paths, None if it is unavailable.

    Args:
        run: address of the core's `actswap_host_run`.
        small: elements up to which one thread is enough.
    """
    try:
        from actswap.ops import _fast_path

        _fast_path.setup(
            run,
            small,
            torch.Tensor.__dlpack_c_exchange_api__,
            torch.Tensor,
            torch.nn.Parameter,
            torch.empty_like,
            partial(torch.empty, dtype=torch.float32),
            torch.get_num_threads,
            torch.is_grad_enabled,
            vars(forward_ad),
            _GUARDS,
        )
    except (ImportError, AttributeError):
        return None
    return _fast_path.FastPath
