"""Half precision, tied weights and the meta device, end to end."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap

TOKENS = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))


class Language(nn.Module):
    """Input and output embedding are one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.act = nn.Embedding(50, 16), nn.ReLU()
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.up(self.embed(ids))
        return self.head(self.down(self.act(x) * F.silu(x)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("start", ["auto", "morph"])
def test_half_precision(dtype: torch.dtype, start: str) -> None:
    torch.manual_seed(0)
    model = Language().eval().to(dtype)
    result = actswap.convert(model, "acon_c", TOKENS, start=start)
    report = result.report
    assert len(report.replaced) == 2 and {p.dtype for p in result.model.parameters()} == {dtype}
    # Both functions are compared in float32, where the tolerance that was asked for can be shown.
    assert report.tolerance == 1e-3
    assert report.parity is not None and report.parity.rel <= report.tolerance
    assert report.proof is not None and report.proof["own precision"].passed
    assert all(r.beta is None or r.beta < 1e4 for r in report.replaced)  # a sharper one would overflow in float16
    assert result.model.head.weight is result.model.embed.weight


@pytest.mark.parametrize("target", ["acon_c", "meta_acon", "pau"])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_plan_made_on_meta_converts_the_real_model(target: str, inplace: bool) -> None:
    with torch.device("meta"):
        shapes = Language().eval()
    result = actswap.convert(shapes, target, TOKENS.to("meta"), inplace=inplace)
    assert all(t.is_meta for t in (*result.model.parameters(), *result.model.buffers()))
    assert result.model.head.weight is result.model.embed.weight
    assert result.report.parity is None and result.report.ok  # nothing was compared, and that is what it says
    torch.manual_seed(0)
    real = Language().eval()
    converted = actswap.apply_plan(real, result.plan, inplace=inplace)
    assert converted(TOKENS).isfinite().all()
    assert converted.head.weight is converted.embed.weight
    assert torch.equal(actswap.revert(converted)(TOKENS), Language.forward(actswap.revert(converted), TOKENS))


def test_time_and_memory_are_told() -> None:
    report = actswap.convert(Language().eval(), "acon_c", TOKENS, start="morph").report
    assert {"scan", "isolate", "start", "verify"} <= report.seconds.keys()
    assert report.peak_bytes > 10e6 and report.to_dict()["peak_bytes"] == report.peak_bytes
