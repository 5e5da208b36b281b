"""Declares the operators that no activation file has declared yet, so that every case can be exported."""

import onnx_cases

from actswap.ops import define, operators

_SCHEMAS = {
    "swish": "Tensor beta",
    "acon_b": "Tensor p, Tensor beta",
    "acon_c": "Tensor p1, Tensor p2, Tensor beta",
    "meta_acon": "Tensor p1, Tensor p2, Tensor scale, Tensor w1, Tensor b1, Tensor w2, Tensor b2",
    "dy_relu": "Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor init, Tensor lambdas",
    "dy_relu_c": "Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor init, Tensor lambdas, Tensor ws,"
    " Tensor bs, float tau, float gain",
    "pau": "Tensor a, Tensor b, Tensor tails, str form",
    "opau": "Tensor c, Tensor d, Tensor tails, str basis, bool safe",
}
for name, arguments in _SCHEMAS.items():
    if name not in operators():
        define(f"{name}(Tensor x, {arguments}, int dim)", onnx_cases.FORMULAS[name])
