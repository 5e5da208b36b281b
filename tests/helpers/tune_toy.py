"""A small network, data and runs that tests of training share; a script too, to be killed or multiplied."""

from __future__ import annotations

import json
import os
import signal
import sys

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from actswap.activations.base import Activation
from actswap.train import Data, TuneConfig, tune


class Slopes(Activation):
    """max(p1 x, p2 x) per channel: the smallest trainable activation."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.p1, self.p2 = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        p1, p2 = (p.reshape(-1, 1, 1) for p in (self.p1, self.p2))
        return torch.maximum(p1 * x, p2 * x)


class Toy(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), Slopes(6)
        self.drop, self.fc = nn.Dropout(dropout), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.act(self.norm(self.conv(x))).mean((2, 3))))


def toy(dropout: float = 0.0) -> Toy:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Toy(dropout)


def data(count: int = 64) -> Data:
    """Three classes told apart by which third of the rows is bright."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(count) % 3
    x = torch.randn(count, 1, 9, 9, generator=generator)
    for row, label in enumerate(target.tolist()):
        x[row, :, 3 * label : 3 * label + 3] += 1.5
    return Data(TensorDataset(x, target), TensorDataset(x[:31], target[:31]))


class Noisy(Dataset):
    """Items with randomness of their own, as users' transforms have."""

    def __init__(self, inner: TensorDataset) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, target = self.inner[index]
        return x + 0.1 * torch.randn(x.shape), target


def main() -> None:
    """`tune_toy.py {config JSON} [kill step]`: one run, killed as by `kill -9` at that step."""
    config, *kill = sys.argv[1:]
    options = json.loads(config)
    noisy, double = options.pop("noisy", False), options.pop("double", False)
    model, made = toy(options.pop("dropout", 0.0)), data()
    if double:
        model = model.double()
        made = Data(*(TensorDataset(s.tensors[0].double(), s.tensors[1]) for s in (made.train, made.valid)))
    if noisy:
        made = Data(Noisy(made.train), made.valid)

    def progress(done: int, _total: int, _text: str) -> None:
        if kill and done == int(kill[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    report = tune(model, made, TuneConfig(**options), progress=progress)
    if report.files:
        print(json.dumps(report.to_dict()))


if __name__ == "__main__":
    main()
