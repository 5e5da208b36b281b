"""A bundle finds its network in a model that has a wrapper more, or less, than the one that was saved."""

from __future__ import annotations

import pytest
import torch
from process_group import one_process
from small_net import SmallNet
from torch import nn
from wrapped_nets import SHARDED, WRAPPERS, Trainer

import actswap
from actswap.errors import LoadError, UsageError


@pytest.fixture(autouse=True, scope="module")
def _group():
    with one_process():
        yield


def fresh(seed: int = 0) -> SmallNet:
    torch.manual_seed(seed)
    return SmallNet().eval()


def outputs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(x)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_bundles_of_wrapped_and_bare_networks_are_the_same(wrapper, image, tmp_path):
    wrap = WRAPPERS[wrapper]
    converted = actswap.convert(fresh(), "acon_c", image).model
    actswap.save(converted, tmp_path / "bare")
    actswap.save(wrap(converted), tmp_path / "wrapped")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("bare", "wrapped")]
    assert files[0] == files[1]
    onto = wrap(fresh(9))
    loaded = actswap.load(tmp_path / "bare", onto)
    assert isinstance(loaded, type(onto)) and torch.equal(outputs(loaded, image), outputs(converted, image))


@pytest.mark.parametrize("inside", ["Trainer", "DistributedDataParallel"])
def test_a_bundle_of_a_converted_trainer_loads_on_the_network(inside, image, tmp_path):
    converted = actswap.convert(Trainer(fresh()), "meta_acon", image).model
    actswap.save(converted, tmp_path / "out")
    onto = fresh(9) if inside == "Trainer" else WRAPPERS[inside](fresh(9))
    loaded = actswap.load(tmp_path / "out", onto)
    assert torch.equal(outputs(loaded, image), outputs(converted, image))
    again = actswap.revert(loaded)
    assert torch.equal(outputs(again, image), outputs(fresh(), image))
    assert actswap.plan_of(loaded).choices[0].path == "act"


def test_compiled_before_or_after_the_conversion(image, tmp_path):
    def compiled(model: nn.Module) -> nn.Module:
        return Trainer(torch.compile(model, backend="eager"))

    expected = outputs(actswap.convert(fresh(), "acon_c", image).model, image)
    before = actswap.convert(compiled(fresh()), "acon_c", image).model
    after = actswap.convert(Trainer(fresh()), "acon_c", image).model
    after.model = torch.compile(after.model, backend="eager")
    for k, model in enumerate((before, after)):
        actswap.save(model, tmp_path / str(k))
        for onto in (Trainer(fresh(9)), compiled(fresh(9)), fresh(9)):
            assert torch.equal(outputs(actswap.load(tmp_path / str(k), onto), image), expected)


def test_conversions_on_top_of_each_other_move_together(image, tmp_path):
    once = actswap.convert(Trainer(fresh()), "swish", image, only="model.act", start="morph").model
    twice = actswap.convert(once, "acon_c", image, skip="model.act").model
    actswap.save(twice, tmp_path / "out")
    loaded = actswap.load(tmp_path / "out", fresh(9))
    assert torch.equal(outputs(loaded, image), outputs(twice, image))
    assert torch.equal(outputs(actswap.revert(loaded), image), outputs(fresh(), image))


def test_a_head_that_was_exchanged_after_the_conversion(image, tmp_path):
    converted = actswap.convert(fresh(), "acon_c", image).model
    converted.head = nn.Linear(16, 3)
    actswap.save(converted, tmp_path / "out")
    onto = fresh(9)
    with pytest.raises(LoadError, match="head"):
        actswap.load(tmp_path / "out", onto)
    onto.head = nn.Linear(16, 3)
    assert torch.equal(outputs(actswap.load(tmp_path / "out", onto), image), outputs(converted, image))


def test_several_networks_that_fit_are_named(image, tmp_path):
    actswap.save(actswap.convert(fresh(), "acon_c", image).model, tmp_path / "out")
    with pytest.raises(LoadError, match=r"student, teacher(.|\n)*actswap.load\(bundle, model.student\)"):
        actswap.load(tmp_path / "out", nn.ModuleDict({"student": fresh(), "teacher": fresh()}))


def test_another_network_is_refused_as_before(image, tmp_path):
    actswap.save(actswap.convert(fresh(), "acon_c", image).model, tmp_path / "out")
    with pytest.raises(LoadError, match="does not fit"):
        actswap.load(tmp_path / "out", Trainer(nn.Linear(3, 5)))


@pytest.mark.parametrize("how", SHARDED)
def test_a_sharded_base_is_refused_with_the_call_that_works(how, image, tmp_path):
    actswap.save(actswap.convert(fresh(), "acon_c", image).model, tmp_path / "out")
    with pytest.raises(UsageError, match=r"load first, then distribute: \w+\(actswap.load\(bundle, model\)\)"):
        actswap.load(tmp_path / "out", SHARDED[how](fresh()))
