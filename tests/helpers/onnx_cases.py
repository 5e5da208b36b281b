"""Every activation operator of the project with random arguments, for the tests of its ONNX form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from operator_cases import FORMULAS
from torch import Tensor

from actswap.activations.opau import BASES
from actswap.onnx.finalize import body
from actswap.onnx.functions import DOMAIN, VERSION, lower

C = 8
# NCHW odd and even, no sample, vector, last axis, one spatial axis, planes that fill no
# block, and channels in the middle.
LAYOUTS = (
    ((2, C, 5, 7), 1),
    ((1, C, 4, 8), 1),
    ((0, C, 5, 7), 1),
    ((3, C), 1),
    ((2, 5, C), -1),
    ((2, C, 9), 1),
    ((2, 3, 4, C), 3),
    ((1, C, 1, 1), 1),
    ((2, 3, C, 5), 2),
)


@dataclass(frozen=True)
class Case:
    """One operator with arguments (all but x and dim)."""

    label: str
    name: str
    tensors: Mapping[str, Tensor]
    scalars: Mapping[str, Any]

    def formula(self, x: Tensor, dim: int) -> Tensor:
        if not x.numel():
            return torch.empty_like(x)
        return FORMULAS[self.name](x, *self.tensors.values(), *self.scalars.values(), dim)

    def model(self, rank: int, dim: int, half: bool = False, opset: int = 18) -> onnx.ModelProto:
        """A file that holds this one node."""
        arrays = {name: tensor.numpy() for name, tensor in self.tensors.items()}
        lowered = lower(self.name, arrays, {**self.scalars, "dim": dim}, rank)
        names = lowered.function.inputs
        node = helper.make_node(lowered.function.op, list(names), ["y"], domain=DOMAIN)
        kinds = {"int": onnx.AttributeProto.INT, "ints": onnx.AttributeProto.INTS, "float": onnx.AttributeProto.FLOAT}
        for key, value in lowered.attributes.items():
            kind = kinds[lowered.function.attributes[key]]
            node.attribute.append(helper.make_attribute(key, value, attr_type=kind))
        dtype = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        shape = [f"axis{k}" for k in range(rank)]
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info("x", dtype, shape)],
            [helper.make_tensor_value_info("y", dtype, shape)],
            [numpy_helper.from_array(np.asarray(a), n) for n, a in zip(names[1:], lowered.inputs, strict=True)],
        )
        imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)]
        functions = [body(lowered.function, opset)]
        return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)


def cases(shared: bool) -> Iterator[Case]:
    """All operators, with parameters per channel or one set per layer."""
    generator = torch.Generator().manual_seed(7)
    w = 1 if shared else C

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def rows(n: int) -> tuple[int, ...]:
        return (n,) if shared else (C, n)

    yield Case("swish", "swish", {"beta": rand(w)}, {})
    yield Case("acon_b", "acon_b", {"p": rand(w), "beta": rand(w)}, {})
    yield Case("acon_c", "acon_c", {"p1": rand(w), "p2": rand(w), "beta": rand(w)}, {})
    for space, features, width in (("channel", C, C), ("layer", 1, 1), ("mixed", C, 1)):
        tensors = {
            "p1": rand(w),
            "p2": rand(w),
            "scale": rand(width),
            "w1": rand(4, features),
            "b1": rand(4),
            "w2": rand(width, 4),
            "b2": rand(width),
        }
        yield Case(f"meta_acon_{space}", "meta_acon", tensors, {})
    for k in (1, 2, 3):
        yield Case(f"dy_relu_{k}", "dy_relu", _dy_relu(rand, k, C if shared else w, w), {})
    spatial = {**_dy_relu(rand, 2, C, C), "ws": rand(w), "bs": rand(1)}
    yield Case("dy_relu_c", "dy_relu_c", spatial, {"tau": 2.5, "gain": 3.0})
    tails = torch.tensor([2.0, -3.0, 2.5, 0.1, 0.0]) + (0 if shared else torch.rand(C, 1, generator=generator) * 0.1)
    tails[..., -1] = 0
    for form in ("unsafe", "A", "B", "C", "D"):
        b = rand(*rows(5 if form == "C" else 4))
        if form == "unsafe":  # even powers, positive: no pole
            b = b.abs() * torch.tensor([0.0, 1.0, 0.0, 1.0])
        yield Case(f"pau_{form}", "pau", {"a": rand(*rows(6)), "b": b, "tails": tails}, {"form": form})
    for basis in BASES:
        tensors = {"c": rand(*rows(6)), "d": rand(*rows(4)), "tails": tails}
        yield Case(f"opau_{basis}", "opau", tensors, {"basis": basis, "safe": True})
    tensors = {"c": rand(*rows(4)), "d": rand(*rows(2)) * 0.02, "tails": tails}
    yield Case("opau_unsafe", "opau", tensors, {"basis": "legendre", "safe": False})


def _dy_relu(rand: Callable[..., Tensor], k: int, features: int, width: int) -> dict[str, Tensor]:
    return {
        "w1": rand(4, features),
        "b1": rand(4),
        "w2": rand(2 * k * width, 4),
        "b2": rand(2 * k * width),
        "init": rand(2 * k, width),
        "lambdas": rand(2 * k),
    }
