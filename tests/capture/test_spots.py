"""Where a call stands: the very characters of the source, in the method that makes it, run by run."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actswap.capture.observe import observe
from actswap.capture.spots import Place, Spot

LINES = Path(__file__).read_text(encoding="utf-8").splitlines()


def text_at(place: Place) -> str:
    line, end_line, column, end_column = place
    lines = LINES[line - 1 : end_line]
    lines[-1] = lines[-1][:end_column]
    return "\n".join([lines[0][column:], *lines[1:]])


def helper(x: Tensor, other: int) -> Tensor:
    return torch.relu(x) + other


class Net(nn.Module):
    """One activation call of every place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.act = nn.Linear(3, 3), nn.Tanh()

    def body(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = F.silu(self.layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x) + self.act(self.layer(x))
        y = y.sigmoid() * sum([F.gelu(v) for v in (y,)])
        return helper(y, 1) + (lambda v: F.mish(v))(y)


def spots(name: str) -> list[Spot]:
    tape = observe(Net(), (torch.randn(2, 3),), spots=True)
    found = [op.spot for op in tape.ops if op.name == name]
    assert all(found)
    return [spot for spot in found if spot is not None]


def test_a_place_holds_the_expression_of_the_call() -> None:
    assert [text_at(s.place) for s in spots("silu")] == ["F.silu(self.layer(x))"] * 2
    assert [text_at(s.place) for s in spots("sigmoid")] == ["y.sigmoid()"]
    assert {s.code for s in spots("silu")} == {Net.body.__code__}
    tape = observe(Net(), (torch.randn(2, 3),), spots=True)
    (act,) = [call.spot for call in tape.calls if call.name == "act"]
    assert act is not None and text_at(act.place) == "self.act(self.layer(x))"


def test_rounds_of_a_loop_are_one_run_and_runs_of_a_method_are_told_apart() -> None:
    one, two = spots("silu")
    assert one.frame == two.frame and one.place == two.place
    assert spots("sigmoid")[0].frame != one.frame


def test_comprehensions_belong_to_their_method_and_lambdas_may_run_later() -> None:
    (gelu,), (mish,) = spots("gelu"), spots("mish")
    assert text_at(gelu.place) == "F.gelu(v)" and not gelu.nested and gelu.code is Net.forward.__code__
    assert text_at(mish.place) == "F.mish(v)" and mish.nested and mish.code is Net.forward.__code__


def test_a_function_of_somebody_else_shows_its_call_and_its_arguments() -> None:
    (relu,) = spots("relu")
    assert text_at(relu.place) == "helper(y, 1)" and relu.callee is not None
    assert relu.callee.code is helper.__code__ and relu.callee.loses == ""
    assert relu.callee.passed[1] == -1 and relu.callee.passed[0] >= 0
    assert list(inspect.signature(helper).parameters) == ["x", "other"]
