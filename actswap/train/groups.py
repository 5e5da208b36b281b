"""Optimizer groups: activation parameters apart, without weight decay and with their own learning rate."""

from __future__ import annotations

from typing import Any

from torch import nn

from actswap.activations import known
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

    Weight decay pulls ACON's p1, p2 and beta and Padé coefficients towards values that mean nothing in
    particular, so what `Spec.no_decay` names does not decay; neither do biases and norm scales, which is what
    the published ACON training does (nmaac/acon decays only weights of more than one dimension). The matrices
    inside meta-ACON and DY-ReLU are ordinary layers and decay.

    Args:
        model: the network, converted or not.
        weight_decay: for weights of more than one dimension.
        lr: learning rate of the groups outside of activations; None leaves it to the optimizer.
        activation_lr: learning rate of the two activation groups; None takes `lr`.

    Returns:
        Groups named `weights`, `biases`, `activations` and `activation_weights`, in that order, empty ones
        left out. Each parameter stands in exactly one group, shared ones once.
    """
    inside = {id(parameter) for parameter in activation_parameters(model).values()}
    kept = _undecayed(model)
    members: dict[str, list[nn.Parameter]] = {name: [] for name in _DECAYS}
    for parameter in model.parameters():
        if parameter.requires_grad:
            matrix = parameter.dim() > 1 and id(parameter) not in kept
            if id(parameter) in inside:
                members["activation_weights" if matrix else "activations"].append(parameter)
            else:
                members["weights" if matrix else "biases"].append(parameter)
    groups: list[dict[str, Any]] = []
    for name, parameters in members.items():
        if not parameters:
            continue
        group: dict[str, Any] = {"name": name, "params": parameters, "weight_decay": 0.0}
        if _DECAYS[name]:
            group["weight_decay"] = weight_decay
        rate = activation_lr if name.startswith("activation") and activation_lr is not None else lr
        if rate is not None:
            group["lr"] = rate
        groups.append(group)
    return groups


_DECAYS = {"weights": True, "biases": False, "activations": False, "activation_weights": True}


def _undecayed(model: nn.Module) -> set[int]:
    """Identify the parameters that an activation's `Spec` exempts; all of them where there is no Spec."""
    found: set[int] = set()
    for module in model.modules():
        if isinstance(module, Activation):
            spec = known(module.name)
            found |= {
                id(parameter)
                for name, parameter in module.named_parameters()
                if spec is None or name in spec.no_decay or name.rpartition(".")[2] in spec.no_decay
            }
    return found
