"""Signal: what of an output varies, and that an error is held against that alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import actswap
from actswap.checks.parity import compare
from actswap.checks.signal import few, more_runs, signals_of

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
SPREAD = float((X - X.mean(0)).square().mean().sqrt() * (64 / 63) ** 0.5)


@pytest.mark.parametrize(
    "constant",
    [torch.tensor(300.0), torch.tensor([300.0, -300.0, 7.0]), torch.tensor(-1e4)],
    ids=["one", "per feature", "large"],
)
def test_what_is_constant_is_no_signal(constant: Tensor) -> None:
    (signal,) = signals_of([[X + constant]])
    # The sum of X and the constant is rounded: half an eps of the constant, of 64 independent numbers.
    assert signal.spread == pytest.approx(SPREAD, abs=2e-7 * float(constant.abs().max()))
    parity = compare([X + constant], [1.25 * X + constant])
    assert parity.rel >= 0.25 * 0.9 and parity.rel_to_size < 5e-2


def test_what_is_constant_for_each_element_is_no_signal() -> None:
    grid = torch.arange(100.0).reshape(1, 4, 25)
    boxes = torch.randn(8, 4, 25, generator=torch.Generator().manual_seed(1))
    assert compare([boxes + grid], [1.1 * boxes + grid]).rel > 0.09


@pytest.mark.parametrize("axis", [1, 2])
def test_a_feature_in_another_unit_is_held_to_its_own_spread(axis: int) -> None:
    scores = torch.rand(2, 40, 84, generator=torch.Generator().manual_seed(2))
    scores[..., :4] *= 640  # boxes, in pixels
    wrong = scores.clone()
    wrong[..., 10] = wrong[..., 10] * 0.5 + 0.25
    a, b = (t.movedim(-1, axis) for t in (scores, wrong))
    assert compare([a], [b]).rel > 0.4
    assert compare([a], [b]).rel_to_size < 1e-3


def test_a_feature_that_is_nearly_dead_does_not_decide() -> None:
    y = X.relu()
    y[:, 0] = 0.0
    y[5, 0] = 1e-6
    assert compare([y], [y + 1e-5]).rel < 1e-2


@pytest.mark.parametrize("value", [0.0, 300.0, -1e-9])
def test_a_constant_output_is_told_and_compared_by_size(value: float) -> None:
    a = torch.full((8, 3), value)
    parity = compare([a], [a * 1.01 if value else a + 0.01])
    assert "constant" in parity.note
    assert parity.rel == pytest.approx(0.01 if value else 0.01 * 24**0.5, rel=1e-4)
    assert compare([a], [a]).rel == 0.0


def test_a_spread_of_a_few_roundings_is_constant() -> None:
    a = torch.full((8, 3), 300.0)
    a[0, 0] = torch.nextafter(a[0, 0], torch.tensor(1e9))
    assert "constant" in compare([a], [a]).note and compare([a], [a.flip(0)]).rel < 1e-6


def test_one_number_alone_is_told_and_compared_by_size() -> None:
    a = torch.tensor([[300.0]])
    parity = compare([a], [a + 3])
    assert "one number" in parity.note and parity.rel == pytest.approx(0.01)


def test_other_inputs_show_how_an_output_of_few_numbers_varies() -> None:
    torch.manual_seed(0)
    model = nn.Linear(16, 1)
    x = X[:1].repeat(1, 6)[:, :16]
    out = [model(x)]
    runs = more_runs(lambda args, kwargs: [model(*args)], (x,), {}, out)
    assert few(out) and 1 < len(runs) <= 4
    (signal,) = signals_of([out, *(o for _, o in runs)])
    wide = model(torch.randn(1000, 16)).std().item()
    assert 0.2 * wide < signal.spread < 3 * wide and not signal.note


def test_more_runs_end_where_the_model_refuses_other_inputs() -> None:
    def picky(args: tuple[Tensor, ...], kwargs: object) -> list[Tensor]:
        raise ValueError("only this one")

    assert more_runs(picky, (X[:1],), {}, [X[:1, :1]]) == []
    assert more_runs(picky, (torch.ones(2, dtype=torch.bool),), {}, [X[:1, :1]]) == []
    assert more_runs(picky, (X,), {}, [X]) == [], "64 samples tell enough"


def test_no_signal_where_there_are_no_numbers() -> None:
    for t in (torch.empty(2, 3, device="meta"), torch.empty(0, 3), torch.arange(5)):
        assert signals_of([[t]])[0].spread == 0.0


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("offset", [300.0, -2e4])
@pytest.mark.parametrize("start", ["auto", "limit"])
def test_a_regression_net_with_a_large_bias_keeps_its_signal(
    outputs: int, batch: int, offset: float, start: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs)).eval()
    with torch.no_grad():
        model[4].bias += offset * torch.linspace(1.0, 2.0, outputs)
    x = torch.randn(batch, 8, generator=torch.Generator().manual_seed(3))
    new = actswap.convert(model, "acon_c", x, start=start).model
    wide = torch.randn(2000, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        a, b = model(wide).double(), new(wide).double()
    loss = (a - b).square().mean(0).sqrt() / a.std(0)
    # What was promised on few samples holds on others to an order of magnitude, or to a few roundings of the offset.
    bound = max(1e-2, 8 * torch.finfo(torch.float32).eps * 2 * abs(offset) / float(a.std(0).min()))
    assert float(loss.max()) <= bound
