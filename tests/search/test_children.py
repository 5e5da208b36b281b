"""Children: how they are built, that they repeat, that a score is the pure function's, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from search_toy import made, small, without_valid
from torch import nn
from torch.utils.data import TensorDataset

from actswap.activations.expression_unit import ExpressionUnit
from actswap.activations.morph import Morph
from actswap.errors import ActswapError, UsageError
from actswap.search import children as module
from actswap.search.children import Children, classes_of, prepare_children
from actswap.search.tables import ChildTable, SearchFile
from actswap.train import Data, Ramp, TuneConfig, tune

TUNE = TuneConfig(epochs=2, batch=24, lr=0.1, accelerator="cpu")
DATA = Data(*made())


def children(**table) -> Children:
    return prepare_children(SearchFile(1, child=ChildTable(**table), tune=TUNE), DATA)


def test_a_child_is_a_function_of_its_number() -> None:
    make = children(rungs=2)
    first, again, other = (list(make("x*sigmoid(beta*x)", n)) for n in (3, 3, 4))
    assert first == again and len(first) == 2
    weights = [make.network("relu(x)", seed).head.weight for seed in (3, 3, 4)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert first != other or not torch.equal(weights[0], weights[2])


def test_the_process_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    list(children()("relu(x)", 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pretrained_child_starts_as_the_network_and_ends_as_the_function(monkeypatch) -> None:
    base, seen = small(), []
    make = replace(children(rungs=2), table=ChildTable("small", rungs=2), base=base)
    x = DATA.train.tensors[0][:4]
    with torch.no_grad():
        assert torch.allclose(make.network("cos(x)-x", 0)(x), base(x), atol=1e-6)

    def watched(model: nn.Module, *rest, **more):
        report = tune(model, *rest, **more)
        seen.append([m.t for m in model.modules() if isinstance(m, Morph)])
        return report

    monkeypatch.setattr(module, "tune", watched)
    assert len(list(make("cos(x)-x", 0))) == 2
    assert seen == [[1.0, 1.0], [1.0, 1.0]], "each score is that of the pure function"


def test_a_pretrained_child_changes_the_chosen_sites_only() -> None:
    make = replace(children(), table=ChildTable("small", only=("act",)), base=small())
    model = make.network("x*sigmoid(beta*x)", 0)
    assert isinstance(model.last, nn.SiLU) and not isinstance(model.act, nn.ReLU)
    whole = replace(make, table=ChildTable("small")).network("x*sigmoid(beta*x)", 0)
    assert isinstance(whole.last, ExpressionUnit), "SiLU is the expression at beta = 1: no morph is needed"


def test_ramps_run_in_the_first_rung() -> None:
    morphing = nn.Sequential(Morph(nn.ReLU(), nn.Tanh()))
    assert module.schedules_of({}, morphing, 0) == {"morph": Ramp(0.0, 1.0, until=0.5)}
    assert module.schedules_of({}, morphing, 1)["morph"].at(0.0) == 1.0
    assert module.schedules_of({"morph": Ramp(0.0, 1.0)}, nn.Sequential(nn.ReLU()), 0) == {}


def test_rungs_end_at_the_whole_budget() -> None:
    table = ChildTable(rungs=3)
    assert Children(table, TuneConfig(epochs=9), 3, 0, DATA).budgets() == [1, 3, 9]
    assert Children(table, TuneConfig(epochs=8), 2, 0, DATA).budgets() == [2, 4, 8]
    assert Children(table, TuneConfig(epochs=9), 0, 0, DATA).budgets() == [1, 3, 9]


def test_a_function_that_explodes_is_an_error_of_its_child() -> None:
    with pytest.raises(ActswapError, match="diverged"):
        list(children()("exp(x)*exp(x)*x**3", 0))


def test_a_loss_of_the_data_gives_a_score_too() -> None:
    data = Data(*made(), loss=lambda output, target: (output.argmax(1) != target).float().mean() + output.var())
    make = prepare_children(SearchFile(1, tune=TUNE), data)
    (score,) = make("relu(x)", 0)
    assert 0 < score <= 1


@pytest.mark.parametrize(
    ("data", "child", "word"),
    [
        (Data(without_valid()), ChildTable(), "no validation part"),
        (Data(TensorDataset(torch.zeros(4, 3), torch.zeros(4).long()), without_valid()), ChildTable(), "take images"),
        (DATA, ChildTable("search_toy:nothing"), "search_toy"),
        (DATA, ChildTable("search_toy:small", only=("none",)), "none"),
    ],
)
def test_what_cannot_be_searched(data: Data, child: ChildTable, word: str) -> None:
    with pytest.raises(ActswapError, match=word):
        prepare_children(SearchFile(1, child=child, tune=TUNE), data)


def test_a_network_that_does_not_fit_the_data() -> None:
    wide = Data(*(TensorDataset(part.tensors[0].repeat(1, 3, 1, 1), part.tensors[1]) for part in made()))
    with pytest.raises(ActswapError, match="channels"):
        prepare_children(SearchFile(1, child=ChildTable("search_toy:small"), tune=TUNE), wide)


def test_what_would_fail_every_child_is_said_at_once() -> None:
    labels = torch.full((48,), 7)
    wrong = Data(TensorDataset(DATA.train.tensors[0], labels), DATA.valid)
    with pytest.raises(UsageError, match="cannot be trained"):
        prepare_children(SearchFile(1, child=ChildTable(classes=2), tune=TUNE), wrong)
    with pytest.raises(ActswapError):
        prepare_children(SearchFile(1, tune=replace(TUNE, accelerator="cuda")), DATA)


def test_classes_are_those_of_the_data() -> None:
    class Listed:
        classes = ("a", "b", "c")

    assert classes_of(DATA) == 2 and classes_of(Data(Listed())) == 3
    with pytest.raises(UsageError, match="classes = 10"):
        classes_of(Data([1]))
