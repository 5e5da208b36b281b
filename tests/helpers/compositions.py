"""Small models, each of which hides an activation call in its own way."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)


class ListComp(Base):
    def forward(self, x: Tensor) -> Any:
        return self.b(sum([F.silu(f(x)) for f in (self.a, self.b)]))


class Lambda(Base):
    def __init__(self) -> None:
        super().__init__()
        self.act = lambda v: F.silu(v)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.act(self.a(x)))


class InDict(Base):
    def __init__(self) -> None:
        super().__init__()
        self.acts = {"act": nn.SiLU(), "f": F.relu}

    def forward(self, x: Tensor) -> Any:
        return self.b(self.acts["f"](self.acts["act"](self.a(x))))


class Partial(Base):
    def __init__(self) -> None:
        super().__init__()
        self.act = functools.partial(F.relu, inplace=True)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.act(self.a(x)))


class Methods(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        y.relu_()
        torch.relu_(y)
        z = self.b(y)
        return torch.nn.functional.silu(z, inplace=True).relu()


class GetAttr(Base):
    def __init__(self) -> None:
        super().__init__()
        self.n = "silu"

    def forward(self, x: Tensor) -> Any:
        return self.b(getattr(F, self.n)(self.a(x)))


class Fresh(Base):
    def forward(self, x: Tensor) -> Any:
        return self.b(nn.SiLU()(self.a(x)))


class TwoNames(Base):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.again = self.act

    def forward(self, x: Tensor) -> Any:
        return self.again(self.b(self.act(self.a(x))))


class Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.Sequential(nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Any:
        return self.seq[2:](self.seq[:2](x))


class MyReLU(nn.ReLU):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) * 1.5


class ScaledReLU(nn.ReLU):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Any:
        return F.relu(x) + self.w * x


class Sub(Base):
    def __init__(self) -> None:
        super().__init__()
        self.act = MyReLU()
        self.act2 = ScaledReLU()

    def forward(self, x: Tensor) -> Any:
        return self.act2(self.b(self.act(self.a(x))))


class Ckpt(Base):
    def __init__(self) -> None:
        super().__init__()
        self.blk = nn.Sequential(nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Any:
        return self.b(checkpoint(self.blk, self.a(x), use_reentrant=False))


class CkptF(Base):
    def part(self, x):
        return F.silu(self.a(x))

    def forward(self, x: Tensor) -> Any:
        return self.b(checkpoint(self.part, x, use_reentrant=True))


class MDict(Base):
    def __init__(self) -> None:
        super().__init__()
        self.acts = nn.ModuleDict({"silu": nn.SiLU(), "relu": nn.ReLU()})

    def forward(self, x: Tensor) -> Any:
        return self.acts["relu"](self.b(self.acts["silu"](self.a(x))))


def closure(k):

    def act(v):
        return v * torch.sigmoid(k * v)

    return act


class Closure(Base):
    def __init__(self) -> None:
        super().__init__()
        self.act = closure(1.702)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.act(self.a(x)))


class Callable:
    def __call__(self, v):
        return F.gelu(v)


class WithCall(Base):
    def __init__(self) -> None:
        super().__init__()
        self.act = Callable()

    def forward(self, x: Tensor) -> Any:
        return self.b(self.act(self.a(x)))


class WN(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(self.a)
        self.b = nn.utils.weight_norm(self.b)

    def forward(self, x: Tensor) -> Any:
        return self.b(F.silu(self.a(x)))


class Abs(nn.Module):
    def forward(self, w):
        return F.softplus(w)


class Para(Base):
    def __init__(self) -> None:
        super().__init__()
        parametrize.register_parametrization(self.a, "weight", Abs())

    def forward(self, x: Tensor) -> Any:
        return self.b(F.silu(self.a(x)))


class SN(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.spectral_norm(self.a)

    def forward(self, x: Tensor) -> Any:
        return self.b(F.silu(self.a(x)))


class QAT(Base):
    def __init__(self) -> None:
        super().__init__()
        self.ff = torch.ao.nn.quantized.FloatFunctional()
        self.q = torch.ao.quantization.QuantStub()
        self.d = torch.ao.quantization.DeQuantStub()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        x = self.q(x)
        y = self.act(self.a(x))
        return self.d(self.ff.add_relu(self.b(y), x))


class Stars(Base):
    def forward(self, *args, **kw):
        return self.b(F.silu(self.a(args[0]) + kw["y"]))


@dataclasses.dataclass
class Out:
    y: Tensor
    extra: dict


class DC(Base):
    def forward(self, x: Tensor) -> Any:
        return Out(self.b(F.silu(self.a(x))), {"k": 1})


class NT(NamedTuple):
    y: Tensor
    z: Tensor


class NTM(Base):
    def forward(self, x: Tensor) -> Any:
        y = F.silu(self.a(x))
        return NT(self.b(y), y)


class Gen(Base):
    def forward(self, x: Tensor) -> Any:
        for f in (self.a, self.b):
            x = F.silu(f(x))
            yield x


class GenChild(Base):
    def __init__(self) -> None:
        super().__init__()
        self.g = Gen()

    def forward(self, x: Tensor) -> Any:
        return sum(self.g(self.a(x)))


class Static(Base):
    @staticmethod
    def act(x):
        return x * torch.sigmoid(x)

    @classmethod
    def act2(cls, x):
        return F.relu(x)

    def forward(self, x: Tensor) -> Any:
        return self.act2(self.b(self.act(self.a(x))))


class Prop(Base):
    @property
    def act(self):
        return F.silu

    def forward(self, x: Tensor) -> Any:
        return self.b(self.act(self.a(x)))


class Match(Base):
    def __init__(self) -> None:
        super().__init__()
        self.k = "silu"

    def forward(self, x: Tensor) -> Any:
        match self.k:
            case "silu":
                y = F.silu(self.a(x))
            case _:
                y = F.relu(self.a(x))
        return self.b(y) if y.sum() > -1000000000.0 else y


class Walrus(Base):
    def forward(self, x: Tensor) -> Any:
        if (y := F.silu(self.a(x))).mean() > 1000000000.0:
            return y
        return self.b(F.relu(y))


class Try(Base):
    def forward(self, x: Tensor) -> Any:
        try:
            y = F.silu(self.a(x))
            assert y.shape[0] == x.shape[0]
        except AssertionError:
            y = x
        return self.b(y)


class WithAuto(Base):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", enabled=False):
            y = F.silu(self.a(x))
        return self.b(y)


class Data(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        while y.abs().max() > 0.1:
            y = F.silu(y) * 0.5
        return self.b(y)


class Vmap(Base):
    def forward(self, x: Tensor) -> Any:
        return self.b(torch.vmap(F.silu)(self.a(x)))


class Fn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        sg = torch.sigmoid(x)
        return g * (sg + x * sg * (1 - sg))


class AF(Base):
    def forward(self, x: Tensor) -> Any:
        return self.b(Fn.apply(self.a(x)))


class Functools(Base):
    def forward(self, x: Tensor) -> Any:
        return functools.reduce(lambda v, f: f(v), [self.a, F.silu, self.b, F.relu], x)


class Map(Base):
    def forward(self, x: Tensor) -> Any:
        return self.b(torch.stack(list(map(F.silu, (self.a(x), self.b(x))))).sum(0))


X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
