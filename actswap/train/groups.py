"""Optimizer groups: activation parameters apart, without weight decay and with their own learning rate."""

from __future__ import annotations

from typing import Any

from torch import nn

from actswap.activations.base import Activation


def activation_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter that belongs to a trainable activation, by its first name in the model."""
    owned = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, Activation)
        for parameter in module.parameters()
    }
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in owned}


def param_groups(
    model: nn.Module, weight_decay: float = 0.0, lr: float | None = None, activation_lr: float | None = None
) -> list[dict[str, Any]]:
    """Split the trainable parameters for an optimizer.

    Weight decay pulls ACON's p1, p2 and beta, Padé coefficients and DY-ReLU's residuals towards values that
    mean nothing in particular, so no parameter of an activation decays; neither do biases and norm scales,
    which is what the published ACON training does (nmaac/acon decays only weights of more than one
    dimension).

    Args:
        model: the network, converted or not.
        weight_decay: for weights of more than one dimension outside of activations.
        lr: learning rate of the groups outside of activations; None leaves it to the optimizer.
        activation_lr: learning rate of the activation group; None takes `lr`.

    Returns:
        Groups named `weights`, `biases` and `activations`, in that order, empty ones left out. Each parameter
        stands in exactly one group, shared ones once.
    """
    activation = {id(parameter) for parameter in activation_parameters(model).values()}
    members: dict[str, list[nn.Parameter]] = {"weights": [], "biases": [], "activations": []}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        kind = (
            "activations" if id(parameter) in activation else "weights" if parameter.dim() > 1 else "biases"
        )
        members[kind].append(parameter)
    groups: list[dict[str, Any]] = []
    for name, parameters in members.items():
        if not parameters:
            continue
        group: dict[str, Any] = {"name": name, "params": parameters, "weight_decay": 0.0}
        if name == "weights":
            group["weight_decay"] = weight_decay
        rate = activation_lr if name == "activations" and activation_lr is not None else lr
        if rate is not None:
            group["lr"] = rate
        groups.append(group)
    return groups
