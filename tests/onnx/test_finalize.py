"""Function bodies are attached once, can be inlined, and operators are counted."""

import numpy as np
import onnx
from onnx_cases import cases

from actswap.onnx.finalize import attach, inline, operators
from actswap.onnx.functions import ACON_C, DOMAIN, SWISH
from actswap.onnx.runtime import cpu_session


def model() -> onnx.ModelProto:
    return next(case for case in cases(False) if case.name == "acon_c").model(4, 1)


def test_a_body_is_attached_once():
    proto = model()
    del proto.functions[:]
    attach(proto, [ACON_C, SWISH], 18)
    attach(proto, [ACON_C], 18)
    assert [(f.domain, f.name) for f in proto.functions] == [(DOMAIN, "AconC"), (DOMAIN, "Swish")]
    onnx.checker.check_model(proto)


def test_inlining_leaves_standard_operators_that_compute_the_same():
    proto = model()
    plain = inline(proto)
    assert not [name for name in operators(plain) if name.startswith(DOMAIN)] and not plain.functions
    assert operators(proto) == {f"{DOMAIN}.AconC": 1}
    x = np.random.default_rng(0).standard_normal((2, 8, 5, 7)).astype(np.float32)
    name = proto.graph.input[0].name
    results = [cpu_session(m).run(None, {name: x})[0] for m in (proto, plain)]
    np.testing.assert_allclose(
        *results, rtol=0, atol=8 * 2**-23 * np.abs(x).max()
    )  # eight operations, rounded once each
