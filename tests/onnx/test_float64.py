"""Bodies of activations in float64."""

import numpy as np
import pytest
import torch

from actswap.errors import ExportError
from actswap.onnx.finalize import body
from actswap.onnx.float64 import evaluate
from actswap.onnx.functions import META_ACON, SWISH


def test_a_body_is_computed_in_float64():
    x, beta = np.linspace(-800, 800, 101), np.float64(1.3)
    want = torch.from_numpy(x) * torch.sigmoid(torch.from_numpy(x) * beta)
    np.testing.assert_allclose(evaluate(body(SWISH, 18), [x, beta]), want.numpy(), rtol=1e-14, atol=1e-300)


def test_a_function_with_other_operators_is_refused():
    with pytest.raises(ExportError, match="cannot be made a table"):
        evaluate(body(META_ACON, 18), [np.ones(3)] * 8)
