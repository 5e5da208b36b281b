"""Four networks of torchvision with random weights, small inputs; skipped where torchvision is not installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

import actswap
from actswap.io.torchvision_import import import_library

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"),
    pytest.mark.filterwarnings("ignore"),
]

# name, options, activation calls, side of the input
ZOO: list[tuple[str, dict[str, Any], int, int]] = [
    ("resnet18", {}, 17, 32),
    ("googlenet", {"aux_logits": False, "init_weights": False}, 57, 64),
    ("mobilenet_v3_small", {}, 33, 32),
    ("densenet121", {}, 121, 32),
]


@pytest.mark.parametrize(("name", "options", "calls", "side"), ZOO, ids=[z[0] for z in ZOO])
def test_every_site_is_replaced(name: str, options: dict[str, Any], calls: int, side: int) -> None:
    torch.manual_seed(0)
    model: nn.Module = getattr(import_library("torchvision.models"), name)(**options).eval()
    x = torch.randn(2, 3, side, side)
    result = actswap.convert(model, "acon_c", x)
    report = result.report
    assert report.ok and report.census is not None and report.census.complete
    gates = [e for e in report.left if e.site.role == "gate"]
    assert len(gates) == len(report.left), [(e.site.name, e.reason) for e in report.left]
    assert len(report.replaced) == calls
    assert report.parity is not None
    # GoogLeNet with random weights puts out nearly the same for every input: its outputs vary by less than a few of
    # their own roundings, so no error below that can be measured. The others are held to the default tolerance.
    assert report.parity.rel <= (report.parity.rounding if name == "googlenet" else 1e-3)
    assert isinstance(result.model, type(model))
    assert result.model.state_dict().keys() >= model.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(actswap.revert(result.model)(x), model(x))


def test_one_module_at_several_widths() -> None:
    model = import_library("torchvision.models").resnet50().eval()
    sites = actswap.scan(model, torch.randn(1, 3, 32, 32))
    assert len(sites) == 49
    assert [s.channels for s in sites if s.name.startswith("layer1.0.relu")] == [64, 64, 256]
