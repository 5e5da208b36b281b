"""Operators of exported programs: those that compute are allowed, those that reach outside are not."""

from __future__ import annotations

import pytest
import torch

from actswap.io.operators import ATEN, is_allowed

# The names of operators that touch more than their tensors: files, storages, memory, the process, packed weights.
REACHING = """
from_file _print save set_ resize_ resize_as_ as_strided as_strided_ data_ptr _unsafe_index_put record_stream
sparse_coo_tensor _make_per_tensor_quantized_tensor to_mkldnn quantized_lstm _nested_view_from_buffer is_pinned
_pin_memory __getitem__
"""


@pytest.mark.parametrize("name", REACHING.split())
def test_operators_that_reach_outside_are_not_allowed(name: str) -> None:
    assert not is_allowed(f"torch.ops.aten.{name}.default") and not is_allowed(f"torch.ops.aten.{name}")


def test_every_allowed_name_is_an_operator_of_torch() -> None:
    """A misspelled name would allow nothing; `aten.mT` and a few more exist as methods only."""
    missing = [name for name in ATEN if not hasattr(torch.ops.aten, name)]
    assert len(missing) <= len(ATEN) // 20, missing


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("torch.ops.aten.relu.default", True),
        ("torch.ops.aten.relu_.default", True),
        ("torch.ops.aten.add.Tensor", True),
        ("torch.ops.actswap.acon_c.default", True),
        ("torch.ops.torchvision.nms.default", True),
        ("torch.ops.torchvision.read_file.default", False),
        ("torch.ops.higher_order.cond", True),
        ("torch.ops.higher_order.print", False),
        ("_operator.getitem", True),
        ("_operator.attrgetter", False),
        ("math.sqrt", True),
        ("math.__loader__", False),
        ("torch.sym_max", True),
        ("torch.load", False),
        ("torch.ops.load_library", False),
        ("os.system", False),
        ("torch.ops.aten.relu.default; import os", False),
        ("", False),
    ],
)
def test_targets(target: str, allowed: bool) -> None:
    assert is_allowed(target) is allowed
