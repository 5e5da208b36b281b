"""The proof of a file notices what differs, and on which inputs."""

import numpy as np
import pytest
import torch
from torch import nn

from actswap.errors import CaptureError, ExportError
from actswap.onnx import proof
from actswap.onnx.export import export_onnx
from actswap.onnx.proof import output_names, outputs, plain_session, prove, takes_other_sizes


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 1)).eval(), torch.randn(2, 3, 8, 8)
    file = tmp_path_factory.mktemp("proof") / "m.onnx"
    export_onnx(model, x, file)
    return model, ((x,), {}), plain_session(file)


def test_the_file_is_compared_at_other_batches_and_sizes(exported):
    model, inputs, session = exported
    found = prove(session, model, inputs)
    assert found.checked == (((2, 3, 8, 8),), ((1, 3, 8, 8),), ((3, 3, 8, 8),), ((2, 3, 40, 40),))
    assert found.parity[0].relative <= 1e-4 and found.notes == ()


def test_another_model_is_told_apart_and_the_output_named(exported):
    model, inputs, session = exported
    other = nn.Sequential(*model[:2], nn.Conv2d(4, 2, 1)).eval()
    with pytest.raises(ExportError, match="does not agree") as caught:
        prove(session, other, inputs)
    assert caught.value.where == "output output"


def test_sizes_that_the_model_refuses_are_noted(exported):
    model, inputs, session = exported

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[2:] != (8, 8):
                raise ValueError("only 8 x 8")
            return model(x)

    found = prove(session, Fixed(), inputs)
    assert len(found.checked) == 3 and "only 8 x 8" in found.notes[0]
    assert not takes_other_sizes(Fixed(), inputs) and takes_other_sizes(model, inputs)


def test_outputs_are_named_by_their_place_in_the_result():
    class Many(nn.Module):
        def forward(self, x: torch.Tensor):
            return {"logits": x, "aux": [x + 1, x + 2]}

    inputs = ((torch.zeros(2),), {})
    assert output_names(Many(), inputs) == ["logits", "aux_0", "aux_1"]
    assert output_names(nn.Identity(), inputs) == ["output"]
    assert [float(o[0]) for o in outputs(Many(), inputs)] == [0.0, 1.0, 2.0]
    with pytest.raises(CaptureError, match="Linear cannot be run"):
        outputs(nn.Linear(3, 1), inputs)


class Large(nn.Module):
    """Values of 1e5 inside, which float16 does not hold."""

    def forward(self, x):
        return (x * 1e5).square().sum(1) * 1e-10


def test_a_model_that_overflows_in_float16_is_refused_in_words(tmp_path):
    with pytest.raises(ExportError, match="overflows") as caught:
        export_onnx(Large(), torch.randn(2, 3), tmp_path / "m.onnx", half=True)
    assert "--half" in caught.value.fix and not list(tmp_path.iterdir())


def test_inputs_take_the_precision_of_the_file(tmp_path):
    model, x = nn.Sequential(nn.Linear(3, 4), nn.SiLU()).eval(), torch.randn(2, 3)
    export_onnx(model, x, tmp_path / "m.onnx", half=True)
    session = proof.plain_session(tmp_path / "m.onnx")
    assert proof.takes_half(session)
    (got,) = proof.run(session, ((x,), {}))
    # Three products and a sum in float16, and one more rounding.
    np.testing.assert_allclose(got, model(x).detach().numpy(), rtol=0, atol=5 * 2**-10 * 4)
