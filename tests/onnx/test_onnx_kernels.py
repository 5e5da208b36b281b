"""The custom-operator library against the formulas: the same nodes, run by the kernels."""

import ctypes

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import parser
from onnx_cases import LAYOUTS, C, Case, cases

from actswap.onnx.functions import VERSION
from actswap.onnx.library import find_library

if find_library() is None:
    pytest.skip("the ONNX Runtime library was not built", allow_module_level=True)

ALL = [
    pytest.param(case, id=f"{case.label}-{'layer' if shared else 'channel'}")
    for shared in (False, True)
    for case in cases(shared)
]
# float32 rationals with random coefficients, in another order of operations
TOLERANCE = 1e-5


def run(model: onnx.ModelProto, x: torch.Tensor, threads: int = 1) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(find_library()))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.numpy()})[0]


def inputs(*shape: int, half: bool = False) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(5)) * 3
    return x.half() if half else x


def assert_close(got: np.ndarray, want: torch.Tensor, tolerance: float) -> None:
    expected = want.numpy().astype(np.float64)
    assert got.shape == expected.shape
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1e-6)
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("case", ALL)
def test_kernel_is_the_formula_in_every_layout(case: Case) -> None:
    for shape, dim in LAYOUTS:
        x = inputs(*shape)
        assert_close(run(case.model(x.dim(), dim), x), case.formula(x, dim), TOLERANCE)


@pytest.mark.parametrize("case", ALL)
def test_half_precision(case: Case) -> None:
    x = inputs(2, C, 5, 7, half=True)
    # DY-ReLU C rounds before and after its attention: two roundings instead of one
    assert_close(run(case.model(4, 1, half=True), x), case.formula(x, 1), 2.0**-9)


@pytest.mark.parametrize("case", [c for c in ALL if c.values[0].label in ("acon_c", "pau_A", "dy_relu_c", "swish")])
def test_infinity_and_nan_are_those_of_pytorch(case: Case) -> None:
    x = inputs(1, C, 3, 3)
    x[0, 0, 0, 0], x[0, 1, 0, 0], x[0, 2, 0, 0] = float("nan"), float("inf"), float("-inf")
    assert_close(run(case.model(4, 1), x), case.formula(x, 1), TOLERANCE)


def test_the_bits_do_not_depend_on_the_threads() -> None:
    for case in cases(False):
        x = inputs(2, C, 61, 67)
        assert np.array_equal(run(case.model(4, 1), x, 1), run(case.model(4, 1), x, 2))


def test_the_kernel_runs_where_it_is_registered() -> None:
    """ONNX Runtime keeps a node that has a kernel, and inlines the body of one that has none."""
    case = next(cases(False))
    model = case.model(4, 1)
    model.functions[0].node.pop()  # a body that cannot run
    del model.functions[:]
    x = inputs(2, C, 4, 4)
    assert_close(run(model, x), case.formula(x, 1), TOLERANCE)
    with pytest.raises(Exception, match="not a registered function"):
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("known", ["", "[?, 6, ?]", "[N, 6, ?]", "[N, 6, L]"])
def test_sizes_that_are_not_known_stay_unknown(known: str) -> None:
    """What follows a kernel computes with the real sizes: a missing one is no scalar, and no size of -1."""
    case = next(cases(False))
    model = case.model(3, 1)
    around = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 18]> g (float[N, {C}, L] x, int64[R] s) => (float[A, B] y)
        <float{known.replace("6", str(C))} moved> {{
            moved = Reshape (x, s)
            activated = Identity (moved)
            sizes = Shape (activated)
            zero = Constant <value = int64[1] {{0}}> ()
            n = Gather (sizes, zero)
            rest = Constant <value = int64[1] {{-1}}> ()
            target = Concat <axis = 0> (n, rest)
            y = Reshape (activated, target)
        }}"""
    )
    (node,) = model.graph.node
    node.input[0], node.output[0] = "moved", "activated"
    around.graph.node[1].CopyFrom(node)
    around.graph.initializer.extend(model.graph.initializer)
    around.functions.extend(model.functions)
    around.opset_import.extend(e for e in model.opset_import if e.domain)
    x = inputs(2, C, 4)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(find_library()))
    session = ort.InferenceSession(around.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": x.numpy(), "s": np.array(x.shape)})
    assert_close(got, case.formula(x, 1).flatten(1), TOLERANCE)


def test_a_wrong_signature_is_refused() -> None:
    """A node with another number of inputs does not reach the kernel: no silent mismatch."""
    model = next(cases(False)).model(4, 1)
    del model.functions[:]
    model.graph.node[0].input.append("beta")
    with pytest.raises(Exception, match="Swish"):
        run(model, inputs(1, C, 2, 2))


def test_kernels_and_bodies_have_one_version() -> None:
    library = ctypes.CDLL(str(find_library()))
    assert library.actswap_ort_domain_version() == VERSION


def test_an_unsupported_runtime_gets_a_clear_error() -> None:
    """The version is checked before anything of the runtime is used but CreateStatus."""
    library = ctypes.CDLL(str(find_library()))
    texts: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    def create_status(code: int, text: bytes) -> int:
        texts.append(text)
        return 0x1234

    table = (ctypes.c_void_p * 320)()
    table[0] = ctypes.cast(create_status, ctypes.c_void_p)

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    def get_api(version: int) -> int | None:
        return ctypes.addressof(table) if version == 1 else None

    version_text = ctypes.create_string_buffer(b"1.17.3")

    @ctypes.CFUNCTYPE(ctypes.c_void_p)
    def get_version() -> int:
        return ctypes.addressof(version_text)

    base = (ctypes.c_void_p * 2)(ctypes.cast(get_api, ctypes.c_void_p), ctypes.cast(get_version, ctypes.c_void_p))
    library.RegisterCustomOps.restype = ctypes.c_void_p
    assert library.RegisterCustomOps(None, ctypes.byref(base)) == 0x1234
    assert b"1.18 or newer" in texts[0] and b"1.17.3" in texts[0]
