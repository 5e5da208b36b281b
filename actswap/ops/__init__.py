"""Operators: one per trainable activation, with the plain formula as oracle and kernels attached by name.

`define` declares an operator (`torch.ops.actswap.<name>`), `backend` chooses who computes it.
"""

from actswap.ops.contract import Kernel
from actswap.ops.registry import Operator, define, function_of, operators
from actswap.ops.switch import backend, current_backend

__all__ = ["Kernel", "Operator", "backend", "current_backend", "define", "function_of", "operators"]
