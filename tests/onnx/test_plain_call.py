"""Objects in and out of a model: one input for each tensor, a name for each output."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_net import SmallNet
from torch import nn

import actswap
from actswap.errors import ExportError
from actswap.onnx.capture import tensors
from actswap.onnx.plain_call import plain_call
from actswap.onnx.proof import output_names

Pair = namedtuple("Pair", "image mask")


@dataclass
class DecoderOutput:
    """As diffusers returns one."""

    sample: torch.Tensor
    posterior: Any = None


class Meta(torch.Tensor):
    """As MONAI's MetaTensor: a tensor of a class of its own."""


class DynamicCache:
    """Of the name that transformers gives it."""

    def __init__(self, keys: torch.Tensor) -> None:
        self.layers = [SimpleNamespace(keys=keys)]


class Net(nn.Module):
    """Takes and returns what a test gives it."""

    def __init__(self, take: Any, give: Any) -> None:
        super().__init__()
        self.net, self.take, self.give = SmallNet(), take, give

    def forward(self, batch: Any, use_cache: bool = True) -> Any:
        return self.give(self.net(self.take(batch)), use_cache)


class Graph:
    """As PyG's Data: attributes in a store that knows its owner."""

    def __init__(self, **values: Any) -> None:
        self._store = {"_owner": self, "_mapping": values}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._store["_mapping"][name]


def same(value: Any, _: Any = None) -> Any:
    return value


INPUTS = {
    "object": (lambda x: (SimpleNamespace(image=x, name="a"),), lambda b: b.image, ["batch_image"]),
    "namedtuple in an object": (
        lambda x: (SimpleNamespace(pair=Pair(x, x + 1)),),
        lambda b: b.pair.image * b.pair.mask,
        ["batch_pair_image", "batch_pair_mask"],
    ),
    "graph": (lambda x: (Graph(x=x, y=x * 2),), lambda b: b.x + b.y, ["batch_x", "batch_y"]),
    "tensor class": (lambda x: (x.as_subclass(Meta),), same, ["batch"]),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_that_are_objects_become_tensors(kind, image):
    make, take, names = INPUTS[kind]
    model, inputs = Net(take, same).eval(), make(image)
    expected = model(*inputs)
    with plain_call(model, (inputs, {})) as (args, kwargs):
        given = dict(zip(names, args, strict=False)) | kwargs
        assert list(given) == names and all(type(t) is torch.Tensor for t in given.values())
        assert torch.equal(model(*args, **kwargs), expected)
        other = {name: value * 2 for name, value in given.items()}  # the tensors given count, not those of the example
        changed = model(**other) if kwargs else model(*other.values())
    assert not torch.equal(changed, expected)
    assert "forward" not in vars(model)


def test_a_converted_model_of_graphs_is_saved_and_exported(image, tmp_path):
    make, take, names = INPUTS["graph"]
    model, inputs = Net(take, lambda y, _: DecoderOutput(y)).eval(), make(image)
    converted = actswap.convert(model, "acon_c", inputs).model
    loaded = actswap.load(actswap.save(converted, tmp_path / "out"), model)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(*inputs).sample, converted(*inputs).sample)
    report = actswap.export_onnx(converted, inputs, tmp_path / "out.onnx", simplify=False)
    assert list(report.inputs) == names and [o.name for o in report.parity] == ["sample"]
    assert report.parity[0].relative <= 1e-4  # the exporter's own limit


OUTPUTS = {
    "dataclass": (lambda y, _: DecoderOutput(y), ["sample"]),
    "namedtuple": (lambda y, _: Pair(y, -y), ["image", "mask"]),
    "list": (lambda y, _: [y, (y + 1, None)], ["output", "output_1"]),
    "dict": (lambda y, _: {"logits": y, "more": {"half": y / 2}}, ["logits", "more_half"]),
    "tensor class": (lambda y, _: y.as_subclass(Meta), ["output"]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_that_are_objects(kind, image):
    give, names = OUTPUTS[kind]
    model = Net(same, give).eval()
    with plain_call(model, ((image,), {})) as inputs:
        assert output_names(model, inputs) == names
        found = tensors(model(*inputs[0]))
        assert torch.equal(found[0], model.net(image)) and type(found[0]) is torch.Tensor


def test_a_cache_names_the_call_without_it(image, tmp_path):
    model = Net(same, lambda y, cache: {"logits": y, "past": DynamicCache(y)} if cache else {"logits": y}).eval()
    with pytest.raises(ExportError, match=r"returns a DynamicCache(.|\n)*--kwarg use_cache=false"):
        actswap.export_onnx(model, image, tmp_path / "out.onnx")
    assert "forward" not in vars(model) and list(tmp_path.iterdir()) == []


def test_a_forward_of_the_instance_comes_back(image):
    model = SmallNet()
    model.forward = own = lambda x: SmallNet.forward(model, x)
    with plain_call(model, ((image,), {})) as (args, _):
        assert torch.equal(model(*args), SmallNet.forward(model, image))
    assert model.forward is own
