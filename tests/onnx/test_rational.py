"""Bodies of Padé units in every basis are the polynomials that they name."""

import numpy as np
import onnx
import pytest
from numpy.polynomial import chebyshev, hermite, hermite_e, laguerre, legendre
from onnx import helper, numpy_helper

from actswap.onnx.finalize import body
from actswap.onnx.functions import DOMAIN, VERSION
from actswap.onnx.rational import opau_function, pau_function
from actswap.onnx.runtime import cpu_session

T = np.linspace(-0.9, 0.9, 41).astype(np.float32)
TAILS = np.float32([1.0, -3.0, 3.0, 0.0, 1.0])  # scale, range, slopes beyond it: wide enough to play no part


def value(function, **parameters: np.ndarray) -> np.ndarray:
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, T.shape) for name in "xy"]
    node = helper.make_node(function.op, ["x", *parameters], ["y"], domain=DOMAIN)
    stored = [numpy_helper.from_array(np.float32(array), name) for name, array in parameters.items()]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], stored)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=imports, functions=[body(function, 18)], ir_version=10)
    return cpu_session(model).run(None, {"x": T})[0]


@pytest.mark.parametrize(
    ("basis", "polynomial"),
    [
        ("chebyshev_t", chebyshev.chebval),
        ("legendre", legendre.legval),
        ("laguerre", laguerre.lagval),
        ("hermite_prob", hermite_e.hermeval),
        ("hermite_phys", hermite.hermval),
        (
            "chebyshev_u",
            lambda t, c: sum(a * np.sin((k + 1) * np.arccos(t)) / np.sqrt(1 - t * t) for k, a in enumerate(c)),
        ),
    ],
)
def test_the_numerator_is_the_sum_of_the_basis(basis, polynomial):
    c = np.array([0.3, -0.2, 0.5, 0.1, -0.4, 0.2])
    found = value(opau_function(basis, True, 6, 1), c=c, d=np.zeros(1), tails=TAILS)
    wanted = polynomial(T.astype(float), c)
    # A recurrence of five steps: some thirty roundings of the largest term.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=30 * 2**-23 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("form", "denominator"),
    [
        ("A", lambda t, b: 1 + sum(np.abs(b[k]) * np.abs(t) ** (k + 1) for k in range(2))),
        ("B", lambda t, b: 1 + np.abs(b[0] * t + b[1] * t**2)),
        ("unsafe", lambda t, b: 1 + b[0] * t + b[1] * t**2),
    ],
)
def test_the_forms_of_the_denominator(form, denominator):
    a, b, t = np.array([0.1, 1.0, -0.5]), np.array([0.3, -0.2]), T.astype(float)
    found = value(pau_function(form, 3, 2), a=a, b=b, tails=TAILS)
    np.testing.assert_allclose(found, np.polyval(a[::-1], t) / denominator(t, b), rtol=0, atol=1e-6)
