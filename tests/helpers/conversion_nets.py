"""Small networks that have every form of call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TARGETS = ["acon_c", "meta_acon", "dy_relu_b", "pau", "swish", "silu"]


class Residual(nn.Module):
    """A block as in torchvision's ResNet: one in-place ReLU, called twice."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.down = nn.Conv2d(width, out, 1) if width != out else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class Net(nn.Module):
    """Module, shared module, functional, method, PReLU, ReLU6, GELU, squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 6, 3, padding=1), nn.PReLU(6)
        self.blocks = nn.Sequential(Residual(6, 6), Residual(6, 8))
        self.se, self.gate = nn.Conv2d(8, 8, 1), nn.Sigmoid()
        self.wide, self.cap = nn.Conv2d(8, 10, 1), nn.ReLU6(inplace=True)
        self.head, self.out = nn.Linear(10, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act(self.stem(x)))
        x = x * self.gate(self.se(x.mean((2, 3), keepdim=True)))
        x = self.cap(self.wide(x)).mean((2, 3))
        x = F.leaky_relu(self.head(x), 0.2)
        return self.out(x.relu())

    def helper(self) -> str:
        return "mine"


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def net() -> Net:
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        model.act.weight.copy_(torch.tensor([0.25, 1.5, -0.3, 1.0, 0.0, 2.0]))
        for bn in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            bn.running_mean.normal_(0, 0.1)
            bn.weight.uniform_(0.5, 1.5)
    return model


def rows(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), *layers, nn.Linear(6, 6)).eval()


def same_state(a: nn.Module, b: dict[str, Tensor]) -> bool:
    state = a.state_dict()
    return list(state) == list(b) and all(torch.equal(v, b[k]) for k, v in state.items())


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def shape_of(model: nn.Module) -> list[Any]:
    rows = [(n, type(m), m.training, list(m._modules), list(m._parameters)) for n, m in model.named_modules()]
    return [*rows, *[(sorted(vars(m)),) for m in model.modules()]]


def alias(forward: Callable[..., Tensor], **children: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = type("Alias", (nn.Module,), {"forward": forward})()
    for name, child in {"a": nn.Linear(6, 6), "b": nn.Linear(6, 6), **children}.items():
        model.add_module(name, child)
    return model.eval()
