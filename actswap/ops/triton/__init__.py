"""The CUDA kernels behind the operators, in Triton: one pass forward, one pass backward with partial sums.

Importing this needs triton; without it `KERNELS` is out of reach and the formulas are used.
"""

from __future__ import annotations

from collections.abc import Mapping

from actswap.ops.kernel import Kernel
from actswap.ops.triton import acon, pau

KERNELS: Mapping[str, Kernel] = {**acon.KERNELS, **pau.KERNELS}
