"""A network with three kinds of activations, one of which a report leaves."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.prelu = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.PReLU(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.act(self.conv(x)) - 0.1)
        return self.fc(torch.sigmoid(x).mean((2, 3)))
