"""Fashion-MNIST and the small residual network of the accuracy benchmark."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from actswap.train import Data

PACKAGE = "dataset-fashion-mnist"
MEAN, DEVIATION = 0.2860, 0.3530


def fetch(cache: Path) -> Path:
    """Return the folder of the four idx files; downloads and unpacks the Debian package once."""
    folder = cache / "usr/share/datasets/fashion-mnist"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", PACKAGE], cwd=cache, check=True)
        archive = next(cache.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg", "-x", archive.name, "."], cwd=cache, check=True)
    return folder


def load(folder: Path, train: int = 60_000) -> Data:
    """Read the official split, normalised, (N, 1, 28, 28); `train` keeps the first so many images."""

    def split(name: str, count: int) -> TensorDataset:
        def values(kind: str, offset: int) -> np.ndarray:
            with gzip.open(folder / f"{name}-{kind}.gz") as file:
                return np.frombuffer(file.read(), dtype=np.uint8, offset=offset)

        images = torch.from_numpy(values("images-idx3-ubyte", 16).copy()).reshape(-1, 1, 28, 28)[:count]
        labels = torch.from_numpy(values("labels-idx1-ubyte", 8).copy()).long()[:count]
        return TensorDataset((images.float() / 255 - MEAN) / DEVIATION, labels)

    return Data(split("train", train), split("t10k", 10_000))


def official() -> Data:
    """Return the official split, fetched into `benchmarks/.cache`; the data function of recipes/fashion_*.toml."""
    return load(fetch(Path(__file__).parent / ".cache"))


def held_out(train: int = 8_000, valid: int = 2_000) -> Data:
    """Return the first images of the training part, and its last ones for validation: searches never see the test."""
    images, labels = official().train.tensors  # type: ignore[attr-defined]
    return Data(TensorDataset(images[:train], labels[:train]), TensorDataset(images[-valid:], labels[-valid:]))


class Block(nn.Module):
    """Two 3x3 convolutions with a residual connection; a ReLU module at each of its two sites."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.act2 = nn.ReLU(inplace=True)
        self.down = nn.Sequential()
        if stride != 1 or inside != outside:
            self.down = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(y + self.down(x))


class SmallResNet(nn.Module):
    """16-32-64 channels, strided stem, one block per stage: 77,754 parameters, 7 ReLU sites; input (N, 1, 28,
    28)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.act = nn.ReLU(inplace=True)
        self.layer1, self.layer2, self.layer3 = Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.act(self.bn(self.conv(x))))))
        return self.fc(x.mean((2, 3)))
