"""Which parameters train, by words and selectors, and which norms stand still."""

from __future__ import annotations

import copy

import pytest
import torch
import tune_toy
from torch import nn

from actswap.errors import UsageError
from actswap.record import trained_in
from actswap.train import TuneConfig, tune
from actswap.train.trained import trainable_only, trained_parameters


def test_only_the_activations_train_and_everything_is_as_before_afterwards():
    model = tune_toy.toy()
    model.act.p1.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="inside"), trainable_only(model, "activations"):
        assert [name for name, p in model.named_parameters() if p.requires_grad] == ["act.p2"]
        raise RuntimeError("inside")
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    with trainable_only(model, "all"):
        assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    with pytest.raises(UsageError, match="no activation to train"), trainable_only(nn.Linear(2, 2), "activations"):
        pass


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("head", {"fc.weight", "fc.bias"}),
        ("bias", {"conv.bias", "norm.bias", "fc.bias"}),
        ("norm", {"norm.weight", "norm.bias"}),
        ("activations, head", {"act.p1", "act.p2", "fc.weight", "fc.bias"}),
        ("conv", {"conv.weight", "conv.bias"}),
        ("*.weight", {"conv.weight", "norm.weight", "fc.weight"}),
        (r"re:^(fc|act)\.", {"act.p1", "act.p2", "fc.weight", "fc.bias"}),
        ("all", {name for name, _ in tune_toy.toy().named_parameters()}),
    ],
)  # fmt: skip
def test_words_and_selectors(text: str, names: set[str]) -> None:
    assert set(trained_parameters(tune_toy.toy(), text)) == names


@pytest.mark.parametrize(
    ("text", "word"), [("hed", "head"), ("cnv.weight", "conv.weight"), ("re:(", "regular expression"), (" , ", "empty")]
)
def test_what_names_nothing_is_an_error_with_the_nearest_names(text: str, word: str) -> None:
    with pytest.raises(UsageError) as error:
        trained_parameters(tune_toy.toy(), text)
    assert word in str(error.value)


@pytest.mark.parametrize("text", ["head", "activations,head", "norm,head"])
def test_what_is_not_named_keeps_its_bits(text: str) -> None:
    """Statistics too: a BatchNorm of which nothing trains belongs to the frozen network."""
    model = tune_toy.toy()
    before = copy.deepcopy(model.state_dict())
    tune(model, tune_toy.data(), TuneConfig(epochs=1, batch=16, train=text, accelerator="cpu"))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trained = set(trained_parameters(model, text))
    statistics = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert changed == trained | (statistics if "norm" in text else set())
    assert trained_in(model) == trained
