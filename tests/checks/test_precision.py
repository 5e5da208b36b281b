"""Networks in half precision: right conversions pass in every check, wrong ones in none.

The stand-in has a constant of 40 in outputs that vary by about 1. Float16 rounds numbers from 32 to 64 to 1/32, so the
network in float16 is up to 1/64 from itself in float32, as an ultralytics `.pt` is.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from actswap.checks.parity import compare, run
from actswap.checks.precision import (
    NOISE_FACTOR,
    OWN,
    as_float32,
    limit,
    low_precision,
    lowered,
    noise_in,
    own_precision,
    raised,
    runs_in_float32,
)
from actswap.checks.signal import signals_of
from actswap.checks.verify import verify
from actswap.cli.main import run as actswap
from actswap.conversion.passes.revert import revert
from actswap.conversion.pipeline import convert
from actswap.errors import ExportError, VerificationError
from actswap.onnx.bench import bench
from actswap.onnx.export import export_onnx

HALF = torch.float16
ULP = 2.0**-5  # spacing of float16 numbers from 32 to 64


def network(dtype: torch.dtype = HALF) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    net[-1].weight.data *= 8
    net[-1].bias.data += 40
    return net.to(dtype)


def wrong(net: nn.Module) -> nn.Module:
    """The network with its last weights 2 % too large: an error that its own rounding nearly hides."""
    other = copy.deepcopy(net)
    other[-1].weight.data *= 1.02
    return other


def inputs(dtype: torch.dtype = HALF) -> Tensor:
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def noise() -> float:
    expected = runs_in_float32(network(), (inputs(),), {})
    assert expected is not None
    return compare(expected, run(network(), (inputs(),))).rel


def test_the_stand_in_is_noisy_and_the_wrong_one_is_within_its_noise() -> None:
    expected = run(network().float(), (inputs().float(),))
    off = compare(expected, run(wrong(network()).float(), (inputs().float(),))).rel
    assert 1e-3 < noise() <= ULP and off < limit(1e-3, noise(), torch.finfo(HALF).eps)


@pytest.mark.parametrize("target", ["acon_c", "meta_acon"])
def test_a_half_network_converts_verifies_and_is_reverted(target: str) -> None:
    net = network()
    result = convert(net, target, inputs())
    report = result.report
    assert report.ok and report.parity is not None and report.parity.rel <= 1e-3, "in float32, to the tolerance"
    assert report.proof is not None and report.proof[OWN].passed
    assert low_precision(result.model) is HALF and all(p.dtype is HALF for p in result.model.parameters())
    parity = verify(net, result.model, inputs())
    assert parity.within(1e-3) and parity.proof is not None and parity.proof.ok and parity.proof[OWN].passed
    back = revert(result.model).state_dict()
    assert all(torch.equal(back[name], t) for name, t in net.state_dict().items())


def test_bfloat16_converts() -> None:
    result = convert(network(torch.bfloat16), "acon_c", inputs(torch.bfloat16))
    assert result.report.ok and low_precision(result.model) is torch.bfloat16
    with pytest.raises(ExportError, match=r"bfloat16(?s:.*)--dtype float32"):
        export_onnx(result.model, inputs(torch.bfloat16), "never.onnx")


def test_a_wrong_half_network_is_told_from_a_right_one() -> None:
    parity = verify(network(), wrong(network()), inputs())
    assert not parity.within(1e-3) and parity.first_divergent_site == "4"


def test_a_target_that_loses_the_function_in_half_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from actswap.conversion import pipeline

    def broken(model: nn.Module, choices: object) -> None:
        model.half()
        model[-1].bias.data += 2

    monkeypatch.setattr(pipeline, "settle_precision", broken)
    with pytest.raises(VerificationError, match=r"own precision(?s:.*)--dtype float32"):
        convert(network(), "acon_c", inputs())


def test_a_network_that_insists_on_half_precision_converts_in_it() -> None:
    class Insists(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.half())

    assert runs_in_float32(Insists(), (inputs(),), {}) is None
    result = convert(Insists(), "acon_c", inputs())
    assert result.report.ok and low_precision(result.model) is HALF


def test_weights_are_back_bit_for_bit() -> None:
    net = network()
    net.tied = net[0].weight
    net.register_buffer("count", torch.tensor(3))
    kept = [(t, t.data_ptr(), t.clone()) for t in (*net.parameters(), *net.buffers())]
    net[0].weight.grad = torch.ones_like(net[0].weight)
    for block, dtype in ((raised(net), torch.float32), (lowered(network(torch.float32), HALF), HALF)):
        with block:
            assert dtype is HALF or {p.dtype for p in net.parameters()} == {torch.float32}
    assert all(t.data_ptr() == at and torch.equal(t, was) and t.dtype is was.dtype for t, at, was in kept)
    assert net[0].weight.grad.dtype is HALF and net.tied is net[0].weight


def test_the_limit_is_the_tolerance_or_the_noise_of_the_reference() -> None:
    assert limit(1e-3, 0.0, 0.0) == 1e-3
    assert limit(1e-3, 0.01, 0.5) == NOISE_FACTOR * 0.01 + 0.5


def test_own_precision_passes_fails_or_proves_nothing() -> None:
    expected = [torch.randn(8, 4, generator=torch.Generator().manual_seed(0))]
    signals = signals_of([expected])
    rounded = [expected[0].half()]

    def check(reference: Tensor, found: Tensor) -> bool | None:
        return own_precision(expected, [reference], [found], signals, 1e-3).passed

    assert check(rounded[0], rounded[0]) is True
    assert check(rounded[0], rounded[0] + 0.1) is False
    assert check(rounded[0] * torch.inf, rounded[0]) is None, "the original overflows"
    assert check(rounded[0] + 1, rounded[0] + 1) is None, "a limit of four times the signal tells nothing"


def test_only_half_precision_inputs_are_raised() -> None:
    x, ids = inputs(), torch.arange(3)
    assert [t.dtype for t in as_float32((x, {"ids": ids}))[1].values()] == [torch.int64]
    assert as_float32((x, ids))[0].dtype is torch.float32 and as_float32((x, "text"))[1] == "text"


def test_noise_in_a_precision() -> None:
    net, x = network(torch.float32), inputs(torch.float32)
    expected = run(net, (x,))
    assert 0 < noise_in(net, (x,), {}, HALF, expected, signals_of([expected])) <= 2 * ULP
    assert low_precision(net) is None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save(network(), "half.pt")
    torch.save(network().float(), "full.pt")
    torch.save(inputs(torch.float32), "x.pt")
    torch.save(inputs(), "x16.pt")
    return tmp_path


def command(text: str) -> int:
    return actswap(text.split())


def test_the_way_of_a_half_precision_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (
        "convert half.pt --to acon_c --input x16.pt",
        "verify half.pt half.acon_c --input x16.pt",
        "export half.acon_c --input x16.pt",
        "verify half.pt half.acon_c.onnx --input x16.pt",
        "bench half.pt half.acon_c half.acon_c.onnx --input x16.pt --runs 3",
        "convert half.pt --to acon_c --input x.pt --dtype float32 -o full.acon_c",
        "export full.acon_c --input x.pt -o full.onnx",
        "verify half.pt full.onnx --input x.pt --dtype float32",
        "export full.pt --half --input x.pt -o low.onnx",
        "verify full.pt low.onnx --input x.pt",
        "bench full.pt half.pt full.onnx low.onnx --input x.pt --runs 3",
    ):
        assert command(text) == 0, (text, capsys.readouterr().err)


def test_files_of_another_network_are_refused(folder: Path) -> None:
    other = network().float()
    other[-1].weight.data *= 1.2
    export_onnx(other, inputs(torch.float32), "low.onnx", half=True)
    export_onnx(wrong(network().float()), inputs(torch.float32), "full.onnx")
    assert command("verify full.pt low.onnx --input x.pt") == 1
    assert command("verify half.pt full.onnx --input x.pt --dtype float32") == 1


def test_a_half_network_that_loses_much_is_exported_and_told(tmp_path: Path) -> None:
    """Its outputs vary by as much as float16 rounds them; asked for as `half=True` that is refused."""
    net = network()
    net[-1].weight.data /= 64
    report = export_onnx(net, inputs(), tmp_path / "m.onnx")
    assert any("--dtype float32" in note for note in report.notes)
    with pytest.raises(ExportError, match="loses too much"):
        export_onnx(net.float(), inputs(torch.float32), tmp_path / "n.onnx", half=True)
    net = network(torch.float32)
    net[-1].weight.data *= 6e4  # weights up to 6e4, outputs beyond 65504
    with pytest.raises(ExportError, match="overflows"):
        export_onnx(net.half(), inputs(), tmp_path / "o.onnx")


def test_bench_gives_each_subject_its_own_precision() -> None:
    report = bench([network(), network(torch.float32)], inputs(), rounds=1, warmup=0)
    assert len(report.rows) == 2
