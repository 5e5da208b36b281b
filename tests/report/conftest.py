"""A report of a small converted network, made once."""

from __future__ import annotations

import pytest
import torch
from report_net import Net

from actswap.conversion.pipeline import convert
from actswap.report import gather


@pytest.fixture(scope="session")
def made():
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(8, 1, 10, 10)
    result = convert(model, "acon_c", x, skip=["type:sigmoid"])
    rows = [{"kind": "train", "step": i, "loss": 2.0 / i} for i in range(1, 6)]
    rows.append({"kind": "valid", "step": 5, "loss": 0.3, "score": 0.9})
    return gather(
        result.model, result.plan, x, original=model, title="A <small> & odd title", metrics=rows,
        parity=result.report.parity.to_dict(), accuracy={"original": 91.5, "after": 92.25}, notes=["<b>note</b>"],
    )  # fmt: skip
