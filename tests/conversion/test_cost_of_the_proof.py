"""The proof costs a bounded number of passes through the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import actswap

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PASSES = {"eval": 0, "train": 0, "backward": 0}


class _Noted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        PASSES["backward"] += 1
        return grad


class Block(nn.Module):
    """One module, called twice: the owner's source is rewritten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(self.relu(x))) + x)


class Counted(nn.Module):
    """Counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.blocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(4, 20)

    def forward(self, x: Tensor) -> Tensor:
        PASSES["train" if self.training else "eval"] += 1
        return self.head(self.blocks(self.act(self.stem(_Noted.apply(x)))).mean((2, 3)))


def passes(work: Any) -> tuple[int, int, int]:
    PASSES.update(dict.fromkeys(PASSES, 0))
    work()
    return PASSES["eval"], PASSES["train"], PASSES["backward"]


def test_a_scan_runs_once_in_each_mode() -> None:
    assert passes(lambda: actswap.scan(Counted(), X)) == (1, 1, 0)


@pytest.mark.parametrize("start", ["auto", "morph"])
def test_the_passes_of_a_conversion(start: str) -> None:
    """Three forward and backward passes in train mode: the original, the isolated network, the converted one.

    In eval mode: the original is observed, and runs on one more input, because a batch of one does not show how outputs
    vary. The isolated network runs once. Both run with moved weights. The last run of the search of beta is also the
    one that is compared and counted.
    """
    tried: list[str] = []
    model = Counted()
    note = lambda done, total, text: tried.append(text) if text.startswith("sharpness") else None
    found = passes(lambda: actswap.convert(model, "acon_c", X, start=start, progress=note))
    assert found == (2 + 1 + 2 + max(len(tried), 1), 3, 3)


def test_the_cheap_form_adds_no_pass_in_train_mode() -> None:
    model = Counted()
    found = passes(lambda: actswap.convert(model, "acon_c", X, start="morph", verify="outputs"))
    assert found == (4, 1, 0)
