"""Several targets in one conversion: the first selector that matches a site holds, and each rule must count."""

import json

import pytest
import torch
from small_net import SmallNet
from torch import nn

from actswap.conversion.pipeline import convert
from actswap.conversion.rules import assign, read_rules, read_target, split_rule
from actswap.conversion.survey import scan
from actswap.errors import SelectionError, UsageError
from actswap.plan import Plan


class Mixed(nn.Module):
    """Three blocks with ReLU, SiLU and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.SiLU())
        self.two = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.SiLU())
        self.gate = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.two(self.one(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def mixed() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 3, 10, 10, generator=torch.Generator().manual_seed(1))


RULES = {"two.*": "meta_acon(space=layer)", "type:silu": "swish", "*": "acon_c"}


def targets_of(plan: Plan) -> dict[str, str]:
    return {c.site.name: c.target for c in plan.choices}


def test_the_first_rule_that_matches_a_site_holds(mixed, x):
    result = convert(mixed, RULES, x)
    assert targets_of(result.plan) == {"one.1": "acon_c", "one.3": "swish", "two.1": "meta_acon", "two.3": "meta_acon"}
    assert {c.site.name: dict(c.options) for c in result.plan.choices}["two.1"] == {"space": "layer"}
    assert result.report.ok and [left.site.role for left in result.report.left] == ["gate"]
    assert result.plan.target == "two.*=meta_acon(space=layer), type:silu=swish, *=acon_c"
    assert Plan.from_dict(json.loads(json.dumps(result.plan.to_dict()))) == result.plan


def test_sites_without_a_rule_stay_and_only_and_skip_apply_too(mixed, x):
    result = convert(mixed, {"two.*": "acon_c"}, x, skip="type:silu")
    assert targets_of(result.plan) == {"two.1": "acon_c"}
    result = convert(mixed, RULES, x, only="one.*")
    assert targets_of(result.plan) == {"one.1": "acon_c", "one.3": "swish"}


def test_a_gate_is_replaced_if_a_rule_names_it(mixed, x):
    result = convert(mixed, {"role:gate": "hardsigmoid", "*": "acon_c"}, x, start="morph")
    assert [c.target for c in result.plan.choices] == ["acon_c"] * 4 + ["hardsigmoid"]


def test_a_rule_that_matches_nothing_or_comes_too_late_is_an_error(mixed, x):
    with pytest.raises(SelectionError, match=r"three\.\*.*matched 0 of"):
        convert(mixed, {"three.*": "pau", "*": "acon_c"}, x)
    with pytest.raises(SelectionError, match=r"one\.\*=pau: earlier rules take all 2 sites"):
        convert(mixed, {"*": "acon_c", "one.*": "pau"}, x)


@pytest.mark.parametrize(
    ("targets", "options", "text"),
    [
        ({}, None, "names no target"),
        ({"*": "acon_z"}, None, "acon_z"),
        ({"*": "meta_acon(spice=1)"}, None, "spice"),
        ({"*": ("meta_acon", {"spice": 1})}, None, "spice"),
        ({"one.*": "acon_c", "*": "pau"}, {"degrees": (5, 4)}, "do not say which"),
        ({"*": "meta_acon(space=layer, layer)"}, None, "not understood"),
        ("meta_acon(space=layer)", {"spice": 1}, "spice"),
    ],
)
def test_wrong_rules_are_refused_before_the_model_runs(targets, options, text):
    with pytest.raises(UsageError, match=text):
        convert(nn.Identity(), targets, torch.zeros(1), options=options)


def test_a_single_target_may_carry_its_options(x):
    torch.manual_seed(0)
    one = convert(SmallNet().eval(), "meta_acon(space=layer, r=4)", x)
    assert {tuple(sorted(c.options.items())) for c in one.plan.choices} == {(("r", 4), ("space", "layer"))}
    assert one.plan.target == "meta_acon"


def test_texts_are_split_at_the_right_equals_sign():
    assert split_rule("re:^(?=layer4).*=acon_c") == ("re:^(?=layer4).*", "acon_c")
    assert split_rule("two.*=x*sigmoid(beta*x)") == ("two.*", "x*sigmoid(beta*x)")
    assert split_rule("meta_acon(space=layer)") == ("", "meta_acon(space=layer)")
    assert read_target("pau(degrees=(7, 6))") == ("pau", {"degrees": (7, 6)})
    assert read_target("x*tanh(x)") == ("x*tanh(x)", {})


def test_options_as_a_pair_are_those_in_brackets(mixed, x):
    sites = scan(mixed, x)
    pair = assign(sites, read_rules({"*": ("meta_acon", {"space": "layer"})}))
    text = assign(sites, read_rules({"*": "meta_acon(space=layer)"}))
    assert pair == text and len(pair) == 4
