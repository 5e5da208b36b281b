"""Networks that a search trains from scratch: the paper's ResNet-20, and a small stand-in for CPUs.

Both take a function that builds the activation for a number of channels, so that a child is built in milliseconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Activate = Callable[[int], nn.Module]


class Proxy(nn.Module):
    """Three strided 3x3 convolutions with BatchNorm, 8-16-32 channels: 6,274 parameters for one channel, ten classes.

    Args:
        activate: builds the activation for a number of channels; it is used three times.
        channels: of the images.
        classes: number of classes.

    Input (N, channels, H, W) with sides of at least 5; output (N, classes).
    """

    def __init__(self, activate: Activate, channels: int, classes: int) -> None:
        super().__init__()
        widths = (channels, 8, 16, 32)
        layers: list[nn.Module] = []
        for inside, outside in itertools.pairwise(widths):
            layers += [nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.BatchNorm2d(outside), activate(outside)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores."""
        scores: Tensor = self.head(self.features(x).mean((2, 3)))
        return scores


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (He et al. 2016, option A)."""

    def __init__(self, activate: Activate, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, outside - inside
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1, self.act1 = nn.BatchNorm2d(outside), activate(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(outside), activate(outside)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.added:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        result: Tensor = self.act2(y + shortcut)
        return result


class ResNet20(nn.Module):
    """ResNet-20 for small images (He et al. 2016, section 4.2), the child of Ramachandran et al. 2017.

    Args:
        activate: builds the activation for a number of channels; it is used 19 times.
        channels: of the images.
        classes: number of classes.

    Input (N, channels, H, W); output (N, classes). 269,722 parameters for three channels and ten classes with ReLU.
    """

    def __init__(self, activate: Activate, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn, self.act = nn.BatchNorm2d(16), activate(16)
        blocks: list[nn.Module] = []
        inside = 16
        for outside in (16, 32, 64):
            for position in range(3):
                stride = 2 if position == 0 and outside > 16 else 1
                blocks.append(_Block(activate, inside, outside, stride))
                inside = outside
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores."""
        scores: Tensor = self.head(self.blocks(self.act(self.bn(self.conv(x)))).mean((2, 3)))
        return scores


NETWORKS: Mapping[str, Callable[[Activate, int, int], nn.Module]] = {"proxy": Proxy, "resnet20": ResNet20}
