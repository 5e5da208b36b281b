"""Where a formula stands in the source: its expression, its input, the statements that go with it, and what stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from actswap.capture.spots import Place, Spot
from actswap.conversion.survey import scan

LINES = Path(__file__).read_text(encoding="utf-8").splitlines()


def text_at(place: Place | None) -> str:
    assert place is not None
    line, end_line, column, end_column = place
    assert line == end_line
    return LINES[line - 1][column:end_column]


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def printing(x: Tensor) -> Tensor:
    print(end="")
    return x * torch.sigmoid(x)


class Net(nn.Module):
    def __init__(self, function: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(5, 5), nn.Linear(5, 5)
        self.beta = nn.Parameter(torch.tensor(1.5))
        type(self).forward = function


def spots(function: Callable[..., Tensor]) -> list[Spot | str]:
    """The spots of all activation calls of a forward, or the reasons why there is none."""
    kind = type("Net", (Net,), {})
    found = scan(kind(function), torch.randn(4, 5)).survey.located[""]
    return [spot for runs in found.spots for spot in runs]


def spot(function: Callable[..., Tensor]) -> Spot | str:
    (one,) = spots(function)
    return one


def with_constant(self, x):
    y = self.before(x)
    return self.after(y * torch.sigmoid(self.beta * y))


def two_statements(self, x):
    y = self.before(x)
    s = torch.sigmoid(y)
    return self.after(y * s)


def of_a_function(self, x):
    return self.after(swish(self.before(x)))


def passed_on(self, x):
    return self.after(checkpoint(F.silu, self.before(x), use_reentrant=False))


def beside(self, x):
    y = self.before(x)
    return self.after(F.leaky_relu(y, float(len(str(1)))))


def test_the_input_of_a_formula_is_named() -> None:
    found = spot(with_constant)
    assert isinstance(found, Spot)
    assert text_at(found.place) == "y * torch.sigmoid(self.beta * y)" and text_at(found.argument) == "y"


def test_earlier_statements_go_with_the_formula() -> None:
    found = spot(two_statements)
    assert isinstance(found, Spot) and text_at(found.place) == "y * s"
    assert [text_at(place) for place in found.drop] == ["s = torch.sigmoid(y)"]


def test_a_function_that_only_computes_it_is_exchanged_as_a_whole() -> None:
    found = spot(of_a_function)
    assert isinstance(found, Spot)
    assert text_at(found.place) == "swish(self.before(x))" and text_at(found.argument) == "self.before(x)"


def test_a_function_that_is_passed_on_is_exchanged_itself() -> None:
    found = spot(passed_on)
    assert isinstance(found, Spot) and found.reference and text_at(found.place) == "F.silu"


def test_what_else_the_expression_calls_is_still_evaluated() -> None:
    found = spot(beside)
    assert isinstance(found, Spot) and [text_at(place) for place in found.beside] == ["float(len(str(1)))"]


def prints(self, x):
    return self.after(printing(self.before(x)))


def read_elsewhere(self, x):
    y = self.before(x)
    s = torch.sigmoid(y)
    return self.after(y * s) + s


@pytest.mark.parametrize(
    ("function", "reason"), [(prints, "printing calls it"), (read_elsewhere, "not one expression of one method")]
)
def test_what_cannot_be_exchanged_has_its_reason(function: Callable[..., Tensor], reason: str) -> None:
    assert any(isinstance(found, str) and reason in found for found in spots(function)), spots(function)
