"""Triton kernels without a GPU: run in Triton's interpreter against the formulas in float64, or compiled for a GPU.

The interpreter must be chosen before the kernels are imported, so `interpreted` runs this file as a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONSTANTS = {"pau": 3, "opau": 3, "dy_relu_c": 8}  # tails have no gradient; that of an attention's bias is zero


def interpreted(*kinds: str) -> None:
    """Compare values and gradients of cases of `operator_cases` with the formulas; raise with what differs."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{path}{os.pathsep}{os.environ['PYTHONPATH']}"}
    command = [sys.executable, __file__, *kinds]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def compiled(function: Any, constants: Mapping[str, Any], passes: Sequence[Mapping[str, Any]]) -> None:
    """Compile every pass of a kernel for sm_90.

    Args:
        function: the kernel; x, g and y are bfloat16, other pointers float32.
        constants: its compile-time constants.
        passes: what differs between the passes; the first is the forward pass.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    for one in passes:
        # Forward and grad_x do not care which way the tile lies; the sums do.
        for planar in (True, False) if one is passes[1] else (True,):
            fixed = {"PLANAR": planar, "ROWS": 8, "COLUMNS": 128, **constants, **one}
            signature = {}
            for name in function.arg_names:
                if name in fixed:
                    signature[name] = "constexpr"
                elif name in ("x", "g", "y"):
                    signature[name] = "*bf16"
                elif name.startswith("step") or name in ("rows", "columns", "channels", "span"):
                    signature[name] = "i32"
                else:
                    signature[name] = "*fp32"
            source = ASTSource(fn=function, signature=signature, constexprs=fixed)
            made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
            assert "sm_90" in made.asm["ptx"]


def _compare(kind: str) -> None:
    import torch
    from operator_cases import FORMULAS, operator, parameters

    from actswap import ops

    torch.manual_seed(0)
    gated = kind.startswith(("meta", "dy"))
    inputs = ((2, 3, 5, 5), 1, torch.float32), ((2, 5, 6), -1, torch.float32), ((2, 3, 9), 1, torch.bfloat16)
    for shape, dim, dtype in (*inputs, *([((2, 2, 3, 5), 2, torch.float32)] if gated else [])):
        name, params = parameters(kind, shape[dim])
        x, g = (2 * torch.randn(shape)).to(dtype), torch.randn(shape).to(dtype)
        results = []
        for function, kind_of in ((operator(name), torch.float32), (FORMULAS[name], torch.float64)):
            leaves = [x.to(dtype if kind_of == torch.float32 else kind_of), *params]
            leaves = [a.to(kind_of) if i and isinstance(a, torch.Tensor) else a for i, a in enumerate(leaves)]
            leaves = [
                a.requires_grad_(i != CONSTANTS.get(name)) if isinstance(a, torch.Tensor) else a
                for i, a in enumerate(leaves)
            ]
            with ops.backend("triton" if kind_of == torch.float32 else "reference"):
                y = function(*leaves, dim)
                wanted = [a for a in leaves if isinstance(a, torch.Tensor) and a.requires_grad]
                results.append([y.detach(), *torch.autograd.grad(y, wanted, g.to(y.dtype))])
        for i, (a, b) in enumerate(zip(*results, strict=True)):
            # float32: some tens of roundings of 6e-8; the interpreter truncates to bfloat16, one unit of 2^-7.
            limit = 2**-7 if dtype == torch.bfloat16 and i < 2 else 2e-5
            error = float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))
            assert error < limit, (kind, shape, dtype, i, error)


if __name__ == "__main__":
    import actswap.nn  # noqa: F401 (declares the operators)

    for each in sys.argv[1:]:
        _compare(each)
