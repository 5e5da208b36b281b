"""Networks whose converted forms are pickled: each reaches its activations in another way."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)))


class Block(nn.Module):
    """One module, called twice, under a helper method, beside a decorated forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

    def inner(self, x: Tensor) -> Tensor:
        return self.act(self.a(x))

    @torch.autocast("cpu", enabled=False)
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.act(self.b(self.inner(x))) * scale


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Functional()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) + x
        return F.silu(x)


class OwnState(Functional):
    """Has its own way with its state."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "saved": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.read = True


class Backref(nn.Module):
    """A child that knows its parent."""

    def __init__(self) -> None:
        super().__init__()
        self.child = Functional()
        self.child.__dict__["parent"] = self

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.child(x))


class Reparametrised(Functional):
    """Runs a method that was set on the instance."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.fused  # type: ignore[method-assign]

    def fused(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x))) + 1


class Plain(Functional):
    def forward(self, x):  # type: ignore[no-untyped-def]  # torch cannot pickle GraphModules of annotated forwards
        return self.b(F.relu(self.a(x)))


def traced() -> nn.Module:
    return torch.fx.symbolic_trace(Plain())


def encoder() -> nn.Module:
    return nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), nn.PReLU())


NETS: Mapping[str, Callable[[], nn.Module]] = {
    "functional": Functional,
    "block": Block,
    "stack": Stack,
    "own state": OwnState,
    "back reference": Backref,
    "forward on the instance": Reparametrised,
    "graph module": traced,
    "encoder": encoder,
}
X = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))


def check(file: str) -> None:
    """Load what another process saved, (name, model, outputs in both modes), and compare the bits."""
    with open(file, "rb") as opened:
        saved = torch.load(io.BytesIO(opened.read()), weights_only=False)
    for name, model, evaluated, trained in saved:
        assert torch.equal(model.eval()(X), evaluated), name
        assert torch.equal(model.train()(X), trained), name


if __name__ == "__main__":
    check(sys.argv[1])
