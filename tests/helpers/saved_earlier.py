"""What earlier versions wrote (tests/fixtures): networks with weights, inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from small_net import SmallNet

FOLDER = Path(__file__).parents[1] / "fixtures" / "saved_at_787592a"
SAVED = sorted(folder for folder in FOLDER.iterdir() if folder.is_dir())


def base_network() -> SmallNet:
    """The network that was converted, with its weights."""
    tensors = load_file(FOLDER / "expected.safetensors")
    model = SmallNet().eval()
    model.load_state_dict({name[5:]: tensor for name, tensor in tensors.items() if name.startswith("base.")})
    return model


def input_and_output(folder: Path) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The input, the output that the earlier version computed, and what rounding may change of it.

    Four layers sum at most 72 float32 products each, in any order.
    """
    tensors = load_file(FOLDER / "expected.safetensors")
    y = tensors[f"y.{folder.name}"]
    return tensors["x"], y, 4 * 72 * torch.finfo(torch.float32).eps * float(y.abs().max())
