"""What a training step minimises: the loss of the data, and what distillation adds to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from actswap.train.config import TuneConfig
from actswap.train.data import Loss
from actswap.train.distill import FeaturePairs, logit_loss


class Objective:
    """The loss of one run.

    Args:
        model: the network that is trained; label smoothing applies in its train mode only.
        config: weights of the terms.
        loss: of the data; None is the cross-entropy of class labels.
        teacher: the original network, None without distillation.
        autocast: the mixed precision that the teacher runs in.

    Attributes:
        plain: the loss of outputs and targets without distillation.
        constant_guess: the loss of a network that puts out the same for every input; known after the first loss.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TuneConfig,
        loss: Loss | None,
        teacher: nn.Module | None,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.model, self.config, self.teacher, self.autocast = model, config, teacher, autocast
        self.plain: Loss = loss or self._cross_entropy
        self.constant_guess = 1.0

    def of_step(self, net: nn.Module, x: Tensor, target: Tensor, features: FeaturePairs | None) -> Tensor:
        """Run the network and return the loss of one batch.

        Args:
            net: the model as the training engine wraps it.
            x: inputs.
            target: labels, or whatever the loss of the data takes.
            features: records what the sites put out; None without feature distillation.
        """
        config = self.config
        if features is not None:
            features.clear()
        output = net(x)
        if self.teacher is None:
            return self.plain(output, target)
        with torch.no_grad(), self.autocast():
            reference = self.teacher(x)
        terms: list[Tensor] = []
        if config.distill < 1:
            terms.append((1 - config.distill) * self.plain(output, target))
        if config.distill > 0:
            terms.append(config.distill * logit_loss(output, reference, config.distill_temperature))
        if features is not None:
            terms.append(config.distill_features * features.loss())
        return torch.stack(terms).sum()

    def _cross_entropy(self, output: Any, target: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing if self.model.training else 0.0
        wide = output if output.dtype == torch.float64 else output.float()
        self.constant_guess = max(1.0, math.log(output.shape[1]))
        loss: Tensor = functional.cross_entropy(wide, target, label_smoothing=smoothing)
        return loss
