"""Random networks whose forward is written out as source, with all that Python does around the operations.

Scalar parameters in formulas, parts without gradients, autocast regions, attributes that are read when the forward
runs, modules and methods called twice, checkpoint, side effects, private names, branches, loops, in-place calls with
an alias. Each class is a text of its own, which `inspect` finds as it finds a file's.
"""

from __future__ import annotations

import linecache
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH, ROWS = 4, 6
Draw = Callable[[int], int]  # draw(n) gives one of 0 .. n-1
KEPT: list[Tensor] = []  # where forwards leave things
CALLS = {"n": 0}


def swish(x: Tensor) -> Tensor:
    """A function of the user's that is an activation."""
    return x * torch.sigmoid(x)


def noted(x: Tensor) -> Tensor:
    """A function of the user's that does more."""
    CALLS["n"] += 1
    return F.relu(x)


def shifted(x: Tensor) -> Tensor:
    """A function of the user's that computes more."""
    return F.gelu(x) + 0.5


class Noting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        KEPT.append(x)
        return F.relu(x)


class Frozen(nn.Module):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class Beta(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


class Gained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.gain = nn.ReLU(), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x) * self.gain


MODULES: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    nn.PReLU,
    nn.SiLU,
    nn.GELU,
    lambda: nn.LeakyReLU(0.1, inplace=True),
    nn.Hardswish,
    nn.ReLU6,
    Noting,
    Frozen,
    Beta,
    Gained,
]
ACTIVATIONS = [
    "F.relu({x})",
    "torch.relu({x})",
    "({x}).relu()",
    "F.silu({x})",
    "F.gelu({x})",
    "F.leaky_relu({x}, 0.1)",
    "F.relu6({x})",
    "({x}).clamp(min=0)",
    "F.relu({x}) ** 2",
    "self.act({x})",
    "self.other({x})",
    "self.method({x})",
    "swish({x})",
    "noted({x})",
    "shifted({x})",
    "F.prelu({x}, self.slope)",
    "F.relu({x}) * self.gain",
    "F.relu({x}) + self.low",
    "self.gain * F.relu({x}) ** 2 + self.low",
    "({x}).clamp(min=self.low)",
    "checkpoint(F.relu, {x}, use_reentrant=False)",
    "checkpoint(self.act, {x}, use_reentrant=False)",
    "checkpoint(self.method, {x}, use_reentrant=False)",
    "checkpoint(lambda t: F.silu(self.first(t)), {x}, use_reentrant=False)",
    "F.dropout(F.relu({x}), self.drop, self.training)",
    "F.leaky_relu({x}, self.rate())",
    "self.method(self.method({x}))",
    "self.act(self.act({x}) - 0.1)",
]
# {a} and {b} are variables of the pool, {y} a new one, ACT an activation of the variable behind it.
STATEMENTS = [
    "{y} = self.first({a})",
    "{y} = self.norm({a})",
    "{y} = ACT({a})",
    "{y} = ACT(self.first({a}))",
    "{y} = self.child({a})",
    "{y} = {a} + {b}",
    "{y} = {a} * torch.sigmoid({a})",
    "{y} = {a} * torch.sigmoid(self.beta * {a})",
    "{y} = torch.maximum({a}, self.slope * {a})",
    "gate = torch.sigmoid({a})\n{y} = {a} * gate",
    "{y} = ACT({a}) * self.k",
    "{y} = ACT({a}) * self.__hidden",
    "with torch.no_grad():\n    {y} = ACT(self.second({a}))",
    "with torch.enable_grad():\n    {y} = ACT({a})",
    "before = torch.is_grad_enabled()\ntorch.set_grad_enabled(False)\n{y} = ACT(self.second({a}))\n"
    "torch.set_grad_enabled(before)",
    'with torch.autocast("cpu", enabled=False):\n    {y} = ACT(self.second({a}.float()))',
    'with torch.autocast("cpu", dtype=torch.bfloat16):\n    {y} = ACT(self.second({a}))\n{y} = {y}.float()',
    "KEPT.append({a})\n{y} = ACT({a})",
    "self.count += 1\n{y} = ACT({a})",
    'CALLS["n"] += 1\n{y} = ACT({a})',
    "if self.flip:\n    {y} = ACT({a})\nelse:\n    {y} = ACT({b})",
    "if self.training:\n    {y} = F.relu({a}) + 0\nelse:\n    {y} = F.relu({a})",
    "if {a}.sum() > -1e9:\n    {y} = ACT({a})\nelse:\n    {y} = {a}",
    "{y} = {a}\nfor layer in (self.first, self.second):\n    {y} = ACT(layer({y}))",
    "{y} = torch.cat([F.relu(part) for part in {a}.chunk(2, -1)], -1)",
    "{y} = self.body({a})",
    "{y} = checkpoint(self.body, {a}, use_reentrant=False)",
    "try:\n    {y} = ACT({a})\nfinally:\n    self.count += 1",
    "h = {a} * 1.0\n{y} = F.relu(h, inplace=True) + h",
    "h = {a} * 1.0\nF.relu_(h)\n{y} = h + 0.1",
    "{y} = ACT({a}) if self.flip else ACT({b})",
    "{y} = F.relu(self.merged({a})) if hasattr(self, 'merged') else F.relu(self.first({a}) + self.second({a}))",
]


def build(draw: Draw) -> nn.Module:
    """Make a network with fixed random weights, in eval mode."""
    torch.manual_seed(0)
    return _module(draw, depth=2).eval()


def from_seed(seed: int) -> nn.Module:
    """Make the network of a seed."""
    return build(random.Random(seed).randrange)


def example() -> Tensor:
    """Make an input: a few rows."""
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))


def _module(draw: Draw, depth: int) -> nn.Module:
    text = _text(draw)
    module: nn.Module = _class(text)()
    scalar = [(), (1,), (1, 1)][draw(3)]
    for name, child in {
        "first": nn.Linear(WIDTH, WIDTH),
        "second": nn.Linear(WIDTH, WIDTH),
        "norm": nn.BatchNorm1d(WIDTH) if draw(2) else nn.LayerNorm(WIDTH),
        "act": MODULES[draw(len(MODULES))](),
        "other": MODULES[draw(len(MODULES))](),
        "child": _module(draw, depth - 1) if depth and draw(2) else nn.Identity(),
    }.items():
        module.add_module(name, child)
    for name, value in {"beta": 1.5, "gain": 1.0, "low": 0.0}.items():
        module.register_parameter(name, nn.Parameter(torch.full(scalar, value)))
    module.slope = nn.Parameter(torch.full((1,), 0.25))
    module.k, module.drop, module.flip, module.count = 1.0, 0.0, bool(draw(2)), 0
    return module


def _class(text: str) -> Any:
    name = f"<written {len(linecache.cache)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    names = {"F": F, "torch": torch, "nn": nn, "checkpoint": checkpoint, "KEPT": KEPT, "CALLS": CALLS}
    names |= {"swish": swish, "noted": noted, "shifted": shifted, "__name__": __name__}
    exec(compile(text, name, "exec"), names)
    return names["Written"]


def _text(draw: Draw) -> str:
    lines = [
        "class Written(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        "        self.__hidden = 0.5",
        "",
        "    def rate(self):",
        "        return 0.2",
        "",
        "    def method(self, x):",
        f"        return {_plain(draw)}",
        "",
        "    def body(self, x):",
        f"        x = self.second({_plain(draw)})",
        "        return x + self.k",
        "",
        "    def forward(self, x):",
        "        v0 = x * 1.0",
    ]
    pool = ["v0"]
    for i in range(1, 3 + draw(5)):
        statement = STATEMENTS[draw(len(STATEMENTS))]
        a, b = pool[draw(len(pool))], pool[draw(len(pool))]
        lines += ["        " + _filled(line, draw) for line in statement.format(y=f"v{i}", a=a, b=b).split("\n")]
        pool.append(f"v{i}")
    lines.append(f"        return self.first({' + '.join(pool[-2:])})")
    return "\n".join(lines) + "\n"


def _plain(draw: Draw) -> str:
    return ["F.relu(x)", "x * torch.sigmoid(x)", "F.silu(x)", "self.act(x)", "F.relu(x) * self.gain"][draw(5)]


def _filled(line: str, draw: Draw) -> str:
    """Put an activation in the place of every ACT(...)."""
    while "ACT(" in line:
        head, _, tail = line.partition("ACT(")
        depth = next(i for i, n in enumerate(_depths(tail)) if n < 0)
        line = head + ACTIVATIONS[draw(len(ACTIVATIONS))].format(x=tail[:depth]) + tail[depth + 1 :]
    return line


def _depths(text: str) -> list[int]:
    depth, found = 0, []
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        found.append(depth)
    return found
