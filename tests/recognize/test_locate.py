"""Names, forms and widths of sites; one module called many times, weights in common."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_models import EXACT, IMAGE, ROWS, check, module_of, names, scan
from torch import Tensor, nn

import actswap
import actswap.errors


def test_a_module_called_once_has_its_own_name_and_is_swapped() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.SiLU(), nn.Sequential(nn.Linear(6, 6), nn.SiLU()))
    sites = scan(model, ROWS)
    assert [(s.name, s.form, s.how, s.owner, s.child) for s in sites] == [
        ("1", "module", "swap", "", "1"),
        ("2.1", "module", "swap", "2", "1"),
    ]
    new = check(model, ROWS)
    assert type(new) is nn.Sequential
    assert type(new[1]).__name__ == "AconC"


def test_a_module_called_three_times_is_three_sites() -> None:
    model = module_of(lambda self, x: self.act(self.b(self.act(self.a(self.act(x))))), act=nn.SiLU())
    sites = scan(model, ROWS)
    assert [(s.name, s.how, s.calls) for s in sites] == [
        ("act", "island", 1),
        ("act@1", "island", 1),
        ("act@2", "island", 1),
    ]
    new = check(model, ROWS)
    parameters = [p for n, p in new.named_parameters() if "act" in n]
    assert len({id(p) for p in parameters}) == len(parameters) == 9  # p1, p2, log_beta for each


def test_shared_module_at_several_widths() -> None:
    model = module_of(
        lambda self, x: self.act(self.c(self.act(self.a(x)))), act=nn.ReLU(inplace=True), c=nn.Linear(6, 11)
    )
    assert [(s.name, s.channels) for s in scan(model, ROWS)] == [("act", 6), ("act@1", 11)]
    check(model, ROWS)


def test_functional_calls_are_named_after_the_module_that_makes_them() -> None:
    inner = module_of(lambda self, x: F.silu(self.b(torch.tanh(F.silu(self.a(x))))))
    model = nn.Sequential(inner, nn.Linear(6, 6))
    sites = scan(model, ROWS)
    assert [(s.name, s.form, s.owner) for s in sites] == [
        ("0.silu", "function", "0"),
        ("0.tanh", "function", "0"),
        ("0.silu@1", "function", "0"),
    ]
    check(model, ROWS)
    assert [s.name for s in scan(module_of(lambda self, x: self.a(F.silu(x))), ROWS)] == ["silu"]


def test_methods_and_inplace_forms() -> None:
    model = module_of(lambda self, x: self.b(self.a(x).relu_()).sigmoid().relu())
    assert [(s.name, s.form, s.inplace) for s in scan(model, ROWS)] == [
        ("relu", "method", True),
        ("sigmoid", "method", False),
        ("relu@1", "method", False),
    ]
    check(model, ROWS)


def test_a_function_and_a_module_of_the_same_name() -> None:
    model = module_of(lambda self, x: self.silu(self.b(F.silu(self.a(x)))), silu=nn.SiLU())
    sites = scan(model, ROWS)
    assert sorted(s.name for s in sites) == ["silu", "silu@1"]
    result = actswap.convert(model, "acon_c", ROWS, tolerance=EXACT)
    assert len(result.plan.choices) == 2
    assert result.report.census is not None and result.report.census.complete
    assert len({c.path for c in result.plan.choices}) == 2
    assert type(actswap.revert(result.model).silu) is nn.SiLU


@pytest.mark.parametrize("chosen", ["silu", "silu@1"])
def test_one_of_a_function_and_a_module_of_the_same_name(chosen: str) -> None:
    model = module_of(lambda self, x: self.silu(self.b(F.silu(self.a(x)))), silu=nn.SiLU())
    new = check(model, ROWS, only=chosen)
    back = actswap.revert(new)
    assert type(back.silu) is nn.SiLU
    assert list(back._modules) == list(model._modules)


def test_a_function_kept_in_an_attribute_of_its_own_name() -> None:
    model = module_of(lambda self, x: self.b(self.gelu(self.a(x))))
    model.gelu = F.gelu
    (site,) = scan(model, ROWS)
    assert site.name == "gelu"
    new = check(model, ROWS)
    assert new.gelu is F.gelu


def test_site_names_do_not_depend_on_gates_being_there() -> None:
    """The name of a site is its position among calls of the same name only."""
    model = module_of(lambda self, x: self.b(F.silu(self.a(x)) * torch.sigmoid(self.a(x))) + F.silu(x))
    assert names(model, ROWS) == ["silu", "sigmoid", "silu@1"]


def test_the_line_of_the_call_is_told() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.act(self.a(x))
        return F.silu(y)

    first, second = scan(module_of(forward, act=nn.SiLU()), ROWS)
    start = forward.__code__.co_firstlineno
    assert [s.line.rpartition(":")[2] for s in (first, second)] == [str(start + 1), str(start + 2)]
    assert all(s.line.startswith(__file__) for s in (first, second))


def test_one_instance_under_two_names() -> None:
    act = nn.SiLU()
    model = module_of(lambda self, x: self.act2(self.b(self.act1(self.a(x)))), act1=act, act2=act)
    sites = scan(model, ROWS)
    assert len(sites) == 2
    new = check(model, ROWS)
    made = [m for m in new.modules() if type(m).__name__ == "AconC"]
    assert len(made) == 2
    back = actswap.revert(new)
    assert back.act1 is back.act2
    assert list(back._modules) == list(model._modules)


def test_one_instance_in_two_owners() -> None:
    act = nn.SiLU()
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 6), act), nn.Sequential(nn.Linear(6, 9), act))
    sites = scan(model, ROWS)
    assert [s.channels for s in sites] == [6, 9]
    assert len({s.name for s in sites}) == 2
    back = actswap.revert(check(model, ROWS))
    assert back[0][1] is back[1][1]


def test_one_instance_twice_in_a_sequential() -> None:
    act = nn.SiLU()
    model = nn.Sequential(nn.Linear(6, 6), act, nn.Linear(6, 9), act)
    sites = scan(model, ROWS)
    assert [s.channels for s in sites] == [6, 9]
    new = check(model, ROWS)
    assert type(new).__mro__[1] is nn.Sequential or type(new) is nn.Sequential
    back = actswap.revert(new)
    assert back[1] is back[3]


def test_a_shared_block_is_one_site() -> None:
    """Weights shared: the target is shared too."""
    block = nn.Sequential(nn.Linear(6, 6), nn.SiLU())
    model = nn.Sequential(block, block, nn.Linear(6, 6))
    (site,) = scan(model, ROWS)
    assert site.calls == 2
    check(model, ROWS)


def test_a_head_on_several_levels_is_one_site_of_many_sizes() -> None:
    head = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 1))
    model = module_of(lambda self, x: [self.head(x), self.head(F.avg_pool2d(x, 2))], head=head)
    (site,) = scan(model, IMAGE)
    assert (site.name, site.calls, site.channels, site.how) == ("head.1", 2, 5, "swap")
    check(model, IMAGE)


def test_a_head_at_several_widths_gets_one_set_per_layer() -> None:
    model = module_of(lambda self, x: self.act(self.c(self.wrap(self.a(x)))), act=nn.SiLU(), c=nn.Linear(6, 9))
    model.wrap = nn.Sequential(model.act)
    sites = scan(model, ROWS)
    assert sum(s.calls for s in sites) == 2
    check(model, ROWS)
