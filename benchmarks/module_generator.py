"""Random small networks: every form of call, branches, reuse, in-place chains, nested containers, residuals.

A network is a list of statements over a pool of tensors of one shape, so that any of them can be combined; each
statement is drawn from `_STATEMENTS`. The draws come from a function, so that hypothesis can shrink them and a seed can
repeat them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 4
Draw = Callable[[int], int]  # draw(n) gives one of 0 .. n-1

MODULES: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    nn.ReLU6,
    lambda: nn.LeakyReLU(0.1),
    lambda: nn.LeakyReLU(0.1, inplace=True),
    lambda: nn.PReLU(WIDTH),
    nn.PReLU,
    nn.SiLU,
    nn.GELU,
    lambda: nn.GELU(approximate="tanh"),
    nn.Hardswish,
    nn.Mish,
    nn.ELU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Hardtanh,
    nn.SELU,
]
FUNCTIONS: list[Callable[[Tensor], Tensor]] = [
    F.relu,
    torch.relu,
    lambda x: x.relu(),
    lambda x: F.relu(x, inplace=True),
    lambda x: x.relu_(),
    F.relu6,
    lambda x: F.leaky_relu(x, 0.2),
    F.silu,
    lambda x: F.silu(x, inplace=True),
    F.gelu,
    F.hardswish,
    torch.tanh,
    torch.sigmoid,
    lambda x: x * torch.sigmoid(x),
    lambda x: torch.sigmoid(x) * x,
    lambda x: x * torch.sigmoid(1.702 * x),
    lambda x: x * (1 + torch.erf(x / 2**0.5)) * 0.5,
    lambda x: x * F.relu6(x + 3) / 6,
    lambda x: x * torch.tanh(F.softplus(x)),
    lambda x: torch.maximum(x, 0.1 * x),
    lambda x: F.relu(x) ** 2,
    lambda x: x.clamp(min=0),
    lambda x: nn.SiLU()(x),
    lambda x: F.elu(x, 0.5),
]
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
    "point": lambda: nn.Conv2d(WIDTH, WIDTH, 1),
    "norm": lambda: nn.BatchNorm2d(WIDTH),
    "drop": lambda: nn.Dropout(0.5),
}


class Wrapped(nn.Module):
    """An activation class of the user's own."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Random(nn.Module):
    """A forward that is a list of statements; see `_STATEMENTS`."""

    def __init__(self, draw: Draw, depth: int) -> None:
        super().__init__()
        self.statements: list[tuple[str, Any, int, int]] = []
        self.acts = nn.ModuleList(MODULES[draw(len(MODULES))]() for _ in range(1 + draw(3)))
        self.kept = [FUNCTIONS[draw(len(FUNCTIONS))], nn.SiLU()]
        self.table = {"act": FUNCTIONS[draw(len(FUNCTIONS))]}
        pool = 1
        for i in range(2 + draw(5)):
            kind = _STATEMENTS[draw(len(_STATEMENTS))]
            a, b = draw(pool), draw(pool)
            what: Any = None
            if kind == "layer":
                what = f"layer{i}"
                self.add_module(what, LAYERS[list(LAYERS)[draw(len(LAYERS))]]())
            elif kind == "own":
                what = f"act{i}"
                self.add_module(what, MODULES[draw(len(MODULES))]())
            elif kind == "again":
                what = draw(len(self.acts))
            elif kind == "function":
                what = FUNCTIONS[draw(len(FUNCTIONS))]
            elif kind == "wrapped":
                what = f"wrapped{i}"
                self.add_module(what, Wrapped(FUNCTIONS[draw(len(FUNCTIONS))]))
            elif kind == "kept":
                what = draw(2)
            elif kind == "sequence":
                what = f"sequence{i}"
                shared = MODULES[draw(len(MODULES))]()
                self.add_module(what, nn.Sequential(LAYERS["point"](), shared, LAYERS["point"](), shared))
            elif kind == "block" and depth:
                what = f"block{i}"
                self.add_module(what, Random(draw, depth - 1))
            elif kind == "block":
                kind = "sum"
            elif kind == "repeat":
                what = f"repeat{i}"
                self.add_module(what, nn.Sequential(LAYERS["point"](), MODULES[draw(len(MODULES))]()))
            self.statements.append((kind, what, a, b))
            pool += 1
        self.last = LAYERS["point"]()

    def forward(self, x: Tensor) -> Tensor:
        pool = [x * 1.0]
        for kind, what, i, j in self.statements:
            a, b = pool[i], pool[j]
            if kind in ("layer", "own", "wrapped", "sequence", "block"):
                y = self.get_submodule(what)(a)
            elif kind == "again":
                y = self.acts[what](a)
            elif kind == "function":
                y = what(a)
            elif kind == "kept":
                y = self.kept[what](a)
            elif kind == "table":
                y = self.table["act"](a)
            elif kind == "sum":
                y = a + b
            elif kind == "gate":
                y = a * torch.sigmoid(b)
            elif kind == "grow":
                y = a * 0.5
                y += b
            elif kind == "chain":
                y = self.last(a)
                y.relu_()
                y.add_(0.1)
            elif kind == "repeat":
                y = self.get_submodule(what)(self.get_submodule(what)(a))
            elif kind == "halves":
                first, second = a.chunk(2, 1)
                y = torch.cat([second, F.relu(first)], 1)
            else:
                raise AssertionError(kind)
            pool.append(y)
        return self.last(pool[-1] + pool[len(pool) // 2])


_STATEMENTS = [
    "layer",
    "layer",
    "layer",
    "own",
    "own",
    "again",
    "again",
    "function",
    "function",
    "wrapped",
    "kept",
    "table",
    "sequence",
    "block",
    "sum",
    "gate",
    "grow",
    "chain",
    "repeat",
    "halves",
]


def build(draw: Draw) -> nn.Module:
    """Make a network with fixed random weights, in eval mode."""
    torch.manual_seed(0)
    model = Random(draw, depth=2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1 and "layer" in name:
                p.uniform_(0.5, 1.5)
    return model.eval()


def from_seed(seed: int) -> nn.Module:
    """Make the network of a seed."""
    generator = random.Random(seed)
    return build(generator.randrange)


def example() -> Tensor:
    """Make an input: two small images."""
    return torch.randn(2, WIDTH, 5, 6, generator=torch.Generator().manual_seed(1))


def check(model: nn.Module, target: str, tolerance: float = 1e-3) -> str:
    """Convert, and hold the conversion to everything it promises.

    Returns:
        `converted`, or `refused: ` and the error, where actswap says in words why it cannot.

    Raises:
        AssertionError: a promise is broken.
    """
    import actswap
    from actswap.errors import UsageError

    x = example()
    expected = model(x)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    sites = actswap.scan(model, x)
    names = [s.name for s in sites]
    assert len(set(names)) == len(names), f"two sites of one name: {names}"
    assert all(s.reason for s in sites if s.how == "left")
    try:
        result = actswap.convert(model, target, x, tolerance=tolerance)
    except UsageError as error:
        assert "nothing to replace" in error.what or "no activation" in error.what, error
        return f"refused: {error.what}"
    report = result.report
    assert report.census is not None and report.census.complete
    assert len(report.replaced) + len(report.left) == len(sites)
    assert all(entry.reason for entry in report.left)
    assert actswap.verify(model, result.model, x).rel <= tolerance
    assert torch.equal(model(x), expected), "the original computes something else"
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())
    assert isinstance(result.model, type(model))
    back = actswap.revert(result.model)
    assert list(back.state_dict()) == list(state)
    assert torch.equal(back(x), expected), "revert is not bit-exact"
    assert not torch.isnan(result.model.train()(x)).any()
    return "converted"
