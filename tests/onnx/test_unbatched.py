"""Activations that pool, of inputs without an axis of samples: exported, and run by bodies and by kernels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_cases import C

import actswap.onnx
from actswap.activations import get
from actswap.onnx.export import export_onnx
from actswap.onnx.library import find_library

GATED = ("meta_acon", "dy_relu_a", "dy_relu_b", "dy_relu_c")
# Shape and channel axis: a picture, rows, a vector; the last two have samples, for comparison.
LAYOUTS = (((C, 5, 7), 0), ((C, 5), 0), ((C,), 0), ((C,), -1), ((3, C), 1), ((2, C, 5, 7), 1))


def module(name: str, channels: int | None, dim: int, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    made = get(name).build(channels, dim, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made.eval()


def errors(model: torch.nn.Module, x: torch.Tensor, path: Path) -> list[float]:
    """Relative errors of the bodies and, where there are kernels, of these."""
    report = export_onnx(model, x, path, simplify=False)
    found = [report.parity[0].relative]
    if find_library() is not None:
        session = actswap.onnx.session(path, prepared=False)
        assert session.actswap_way == "native"
        got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        want = model(x).detach().numpy()
        assert got.shape == want.shape
        found.append(float(np.abs(got - want).max() / np.abs(want).max()))
    return found


@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
@pytest.mark.parametrize("name", GATED)
def test_one_sample_without_its_axis(name: str, shape: tuple[int, ...], dim: int, tmp_path: Path) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    assert max(errors(module(name, C, dim), x, tmp_path / "m.onnx")) <= 1e-5


@pytest.mark.parametrize("name", GATED[1:])
def test_every_value_of_a_vector_is_a_sample_where_channels_are_pooled_too(name: str, tmp_path: Path) -> None:
    x = torch.randn(C, generator=torch.Generator().manual_seed(1))
    assert max(errors(module(name, None, 0), x, tmp_path / "m.onnx")) <= 1e-5


@pytest.mark.parametrize("shape", [(2, C, 5, 7), (3, C)])
def test_one_beta_per_sample_beside_a_scale_per_channel(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    assert max(errors(module("meta_acon", C, 1, space="layer"), x, tmp_path / "m.onnx")) <= 1e-5


def test_a_network_of_one_picture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, C, 3), module("meta_acon", C, 0), torch.nn.Conv2d(C, 2, 1)).eval()
    x = torch.randn(3, 9, 6)
    export_onnx(model, x, tmp_path / "m.onnx")
    session = actswap.onnx.session(tmp_path / "m.onnx", cache_folder=tmp_path)
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(got, model(x).detach().numpy(), rtol=0, atol=1e-5)
