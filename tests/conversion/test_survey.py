"""A survey finds the way to every call: a swap, the owner's source, or a trace; and says why there is none."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from actswap.conversion.survey import Survey, reach, scan, survey

X = torch.randn(4, 6)


class Owner(nn.Module):
    """One child called once, one twice, a function; `twist` is exchanged by each test."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.once, self.twice = nn.ReLU(), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.once(self.a(x))
        return self.twice(self.b(self.twice(y))) + F.gelu(y)


def surveyed(model: nn.Module, x: Any = X) -> Survey:
    return survey(model, (x,), {})


def test_swaps_and_rewrites() -> None:
    found = surveyed(Owner())
    assert [(s.name, s.how) for s in found.sites] == [
        ("once", "swap"),
        ("twice", "island"),
        ("twice@1", "island"),
        ("gelu", "island"),
    ]
    island = found.islands[""]
    assert island.rewrites and not island.calls and {r.function for r in island.rewrites} == {"forward"}
    assert {o for r in island.rewrites for o in r.ordinals} >= {1, 2, 3}
    assert found.portable and found.training is not None and len(found.training) == 4


def test_a_forward_whose_source_is_gone_is_traced() -> None:
    namespace: dict[str, Any] = {"F": F}
    exec("def forward(self, x):\n    return self.b(F.silu(self.a(x)))", namespace)
    kind = type("NoSource", (Owner,), {"forward": namespace["forward"]})
    found = surveyed(kind())
    assert found.sites[0].how == "island" and not found.islands[""].rewrites and len(found.islands[""].calls) == 1
    assert len(found.traces[""]) == 1


def test_what_neither_way_reaches_is_left_with_both_reasons() -> None:
    namespace: dict[str, Any] = {"F": F}
    exec("def forward(self, x):\n    print(end='')\n    return self.b(F.silu(self.a(x)))", namespace)
    kind = type("Printing", (Owner,), {"forward": namespace["forward"]})
    found = surveyed(kind())
    (site,) = found.sites
    assert site.how == "left" and "nor can its forward be traced" in site.reason and "print" in site.reason


def test_a_graph_module_is_reached_through_its_graph() -> None:
    found = surveyed(fx.symbolic_trace(Owner()))
    assert {s.how for s in found.sites} <= {"swap", "island"} and not found.islands[""].rewrites
    way = reach(found.model, found.located[""], found.tape, [1])
    assert way.island is not None and not way.missed


def test_an_island_bound_to_an_object_of_the_model_is_not_portable() -> None:
    """Arguments that are objects of the user's must be the same ones again."""

    class Passing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.key = object()
            namespace: dict[str, Any] = {"F": F}
            exec("def forward(self, x, key):\n    return self.a(F.silu(x))", namespace)
            self.inner = type("Inner", (Owner,), {"forward": namespace["forward"]})()
            self.out = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.inner(x, self.key))

    found = surveyed(Passing())
    assert found.islands["inner"].calls and not found.portable
    assert surveyed(Owner()).portable


def test_scan_is_a_list_that_keeps_its_survey() -> None:
    model = Owner()
    sites = scan(model, X)
    assert list(sites) == list(sites.survey.sites) and sites.survey.model is model
