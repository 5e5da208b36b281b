"""The Triton kernels in Triton's interpreter, on tiny tensors, against the formulas in float64.

They run in a process of their own: the interpreter must be chosen before the kernels are imported.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]

INTERPRETED = """
import sys; sys.path[:0] = sys.argv[1:]
import torch
import actswap.nn
from actswap import ops
from operator_cases import FORMULAS, operator, parameters
torch.manual_seed(0)
kinds = ("swish", "swish_layer", "acon_b", "acon_c", "acon_c_mixed", "pau_a", "pau_a_channel", "pau_b", "pau_c")
kinds += ("pau_32", "opau_t", "opau_he", "opau_unsafe", "opau_lag", "meta_acon", "dy_relu", "dy_relu_a", "dy_relu_3")
kinds += ("dy_relu_c",)
inputs = ((2, 3, 5, 5), 1, torch.float32), ((2, 5, 6), -1, torch.float32), ((2, 3, 9), 1, torch.bfloat16)
constants = {"pau": 3, "opau": 3, "dy_relu_c": 8}  # tails have no gradient; that of an attention's bias is zero
for kind in kinds:
    gated = kind.startswith(("meta", "dy"))
    for shape, dim, dtype in (*inputs, *([((2, 2, 3, 5), 2, torch.float32)] if gated else [])):
        name, params = parameters(kind, shape[dim])
        x, g = (2 * torch.randn(shape)).to(dtype), torch.randn(shape).to(dtype)
        results = []
        for function, kind_of in ((operator(name), torch.float32), (FORMULAS[name], torch.float64)):
            leaves = [x.to(dtype if kind_of == torch.float32 else kind_of), *params]
            leaves = [a.to(kind_of) if i and isinstance(a, torch.Tensor) else a for i, a in enumerate(leaves)]
            leaves = [a.requires_grad_(i != constants.get(name)) if isinstance(a, torch.Tensor) else a
                      for i, a in enumerate(leaves)]
            with ops.backend("triton" if kind_of == torch.float32 else "reference"):
                y = function(*leaves, dim)
                wanted = [a for a in leaves if isinstance(a, torch.Tensor) and a.requires_grad]
                results.append([y.detach(), *torch.autograd.grad(y, wanted, g.to(y.dtype))])
        for i, (a, b) in enumerate(zip(*results)):
            # float32: some tens of roundings of 6e-8; the interpreter truncates to bfloat16, one unit of 2^-7.
            limit = 2**-7 if dtype == torch.bfloat16 and i < 2 else 2e-5
            error = float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))
            assert error < limit, (kind, shape, dtype, i, error)
"""

COMPILED = """
import sys; sys.path[:0] = sys.argv[1:]
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from actswap.ops.triton import acon, gated, opau, pau
pointers = ("x", "g", "y")
numbers = ("rows", "columns", "channels", "span")
modes = {"BACKWARD": False}, {"BACKWARD": True}
every = {"MODE": 0}, {"MODE": 1}, {"MODE": 2}
for function, constants, passes in (
    (acon._acon, {}, modes),
    (pau._pau, {"P": 4, "Q": 2, "FORM": 1}, modes),
    (opau._opau, {"P": 4, "Q": 2, "TOP": 3, "SAFE": True}, modes),
    (gated._gated, {"OP": 0, "K": 1}, every),
    (gated._gated, {"OP": 1, "K": 2}, every),
):
    for one in passes:
        # Forward and grad_x do not care which way the tile lies; the sums do.
        for planar in (True, False) if one in (modes[1], every[1]) else (True,):
            fixed = {"PLANAR": planar, "ROWS": 8, "COLUMNS": 128, **constants, **one}
            signature = {}
            for name in function.arg_names:
                if name in fixed:
                    signature[name] = "constexpr"
                elif name in pointers:
                    signature[name] = "*bf16"
                elif name.startswith("step") or name in numbers:
                    signature[name] = "i32"
                else:
                    signature[name] = "*fp32"
            source = ASTSource(fn=function, signature=signature, constexprs=fixed)
            assert "sm_90" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
"""


@pytest.mark.parametrize("script", [INTERPRETED, COMPILED], ids=["interpreted", "compiled_for_sm_90"])
def test_triton(script, tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    if script is INTERPRETED:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-c", script, str(ROOT), str(ROOT / "benchmarks")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
