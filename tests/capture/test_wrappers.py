"""Conversion, revert, scan and verify see the network inside what training tools put around it."""

from __future__ import annotations

import pytest
import torch
from process_group import one_process
from small_net import SmallNet
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from wrapped_nets import SHARDED, WRAPPERS, Trainer

import actswap
from actswap.capture.wrappers import common_prefixes, is_sharded, network_in, without_wrappers
from actswap.errors import UsageError
from actswap.record import converted_in

SITES = ["act", "shared", "shared@1", "relu"]


@pytest.fixture(autouse=True, scope="module")
def _group():
    with one_process():
        yield


def fresh() -> SmallNet:
    torch.manual_seed(0)
    return SmallNet().eval()


def outputs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_network_is_converted_and_reverted(wrapper, image):
    wrap, prefix = WRAPPERS[wrapper], "model." if wrapper == "Trainer" else ""
    before, after = (outputs(m, image) for m in (fresh(), actswap.convert(fresh(), "acon_c", image).model))
    wrapped = wrap(fresh())
    assert [s.name for s in actswap.scan(wrapped, image)] == [prefix + name for name in SITES]
    result = actswap.convert(wrapped, "acon_c", image)
    assert isinstance(result.model, type(wrapped)) and result.report.ok
    assert torch.equal(outputs(result.model, image), after) and torch.equal(outputs(wrapped, image), before)
    again = actswap.revert(result.model)
    assert isinstance(again, type(wrapped)) and torch.equal(outputs(again, image), before)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_record_stays_with_the_network(wrapper, image):
    converted = actswap.convert(fresh(), "acon_c", image).model
    wrapped = WRAPPERS[wrapper](converted)
    assert actswap.plan_of(wrapped).target == "acon_c"
    parity = actswap.verify(fresh(), wrapped, image)
    assert parity.rel <= 1e-3 and parity.proof.ok and parity.proof["gradients"].passed
    assert torch.equal(outputs(actswap.revert(wrapped), image), outputs(fresh(), image))
    assert actswap.plan_of(wrapped) is not None  # a copy was reverted


@pytest.mark.parametrize("wrapper", ["DistributedDataParallel", "DataParallel", "torch.compile", "module.compile"])
def test_in_place_the_same_object_computes_the_other_function(wrapper, image):
    wrapped = WRAPPERS[wrapper](fresh())
    before = outputs(wrapped, image)
    result = actswap.convert(wrapped, "acon_c", image, inplace=True)
    expected = outputs(actswap.convert(fresh(), "acon_c", image).model, image)
    assert result.model is wrapped and torch.equal(outputs(wrapped, image), expected)
    assert not torch.equal(before, expected)
    assert actswap.revert(wrapped, inplace=True) is wrapped and torch.equal(outputs(wrapped, image), before)


def test_ddp_reduces_the_gradients_of_the_new_parameters(image):
    model = actswap.convert(DistributedDataParallel(fresh()), "acon_c", image).model.train()
    model(image).sum().backward()
    reduced = sum(bucket.buffer().numel() for bucket in model.reducer._get_zeros_like_grad_buckets())
    assert reduced == sum(p.numel() for p in model.parameters()) > sum(p.numel() for p in fresh().parameters())
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("how", SHARDED)
def test_a_sharded_network_is_scanned_and_compared_and_nothing_else(how, image):
    shard = SHARDED[how]
    assert [s.name for s in actswap.scan(shard(fresh()), image)] == SITES
    sharded = shard(actswap.convert(fresh(), "acon_c", image).model)
    assert is_sharded(sharded) and actswap.plan_of(sharded).target == "acon_c"
    parity = actswap.verify(fresh(), sharded, image)
    assert parity.rel <= 1e-3 and parity.proof["perturbed weights"].passed is None
    for act in (lambda: actswap.convert(shard(fresh()), "acon_c", image), lambda: actswap.revert(sharded)):
        with pytest.raises(UsageError, match="set up for distributed training"):
            act()


def test_a_forward_after_a_scan_still_trains_what_fully_shard_holds(image):
    model = SHARDED["fully_shard"](actswap.convert(fresh(), "acon_c", image).model)
    actswap.scan(model, image)
    model(image).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_two_networks_in_one_model_are_named(image):
    both = nn.ModuleDict({k: actswap.convert(fresh(), "acon_c", image).model for k in ("generator", "critic")})
    assert list(converted_in(both)) == ["generator", "critic"] and actswap.plan_of(both) is None
    with pytest.raises(UsageError, match=r"actswap.revert\(model.generator\)"):
        actswap.revert(both)


def test_parts_that_are_compiled_on_their_own(image):
    converted = actswap.convert(fresh(), "acon_c", image).model
    expected = outputs(converted, image)
    trainer = Trainer(torch.compile(fresh(), backend="eager"))
    assert torch.equal(outputs(actswap.convert(trainer, "acon_c", image).model, image), expected)
    compiled = Trainer(torch.compile(converted, backend="eager"))
    assert torch.equal(outputs(actswap.revert(compiled), image), outputs(fresh(), image))


def test_what_is_no_wrapper_is_left_alone():
    class DataParallelNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.ReLU()

    own = DataParallelNet()
    assert network_in(own) is own
    assert without_wrappers("my_orig_mod.relu") == "my_orig_mod.relu"
    assert without_wrappers("_orig_mod") == "" and without_wrappers("a._orig_mod") == "a"
    assert common_prefixes(["act", "body.relu"]) == [] == common_prefixes([])
