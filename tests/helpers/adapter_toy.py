"""A small pretrained network, and conversions of it that were trained in part."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import actswap
from actswap.conversion.head import new_head

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def base() -> nn.Sequential:
    """As SqueezeNet: the head is a convolution with an activation behind it; always the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 7, 1),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ).eval()  # fmt: skip


def trained(seed: int, classes: int | None = None) -> nn.Module:
    """The base converted, with moved activations, and a new head if it is asked for."""
    model = actswap.convert(base(), "acon_c", X).model
    if classes is not None:
        new_head(model, classes, (X,), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(("p1", "p2", "log_beta")) or name.startswith("5."))
        if name.endswith("p1"):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(X)
        return found
