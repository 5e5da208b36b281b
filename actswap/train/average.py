"""Exponential moving average of weights and statistics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """Moving average of every floating-point entry of a state_dict.

    The decay of step n is min(decay, (1 + n) / (10 + n)), so that the first weights are soon forgotten.

    Args:
        model: the network whose state is averaged.
        decay: share of the old average that each update keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model's state after step number `step` (from 0)."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - keep)
            else:
                self.state[name].copy_(tensor)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a saved average."""
        for name, tensor in state.items():
            self.state[name].copy_(tensor)
