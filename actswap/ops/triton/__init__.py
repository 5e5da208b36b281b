"""The CUDA kernels behind the operators, in Triton: one pass forward, one backward with partial sums.

Where coefficients are computed from the input it is two of each.

Importing this needs triton; without it `KERNELS` is out of reach and the formulas are used.
"""

from __future__ import annotations

from collections.abc import Mapping

from actswap.ops.contract import Kernel
from actswap.ops.triton import acon, gated, opau, pau

KERNELS: Mapping[str, Kernel] = {**acon.KERNELS, **pau.KERNELS, **opau.KERNELS, **gated.KERNELS}
