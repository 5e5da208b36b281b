"""Optimizer groups: activation parameters apart, without weight decay and with their own learning rate."""

from __future__ import annotations

from typing import Any

from torch import nn

from actswap.activations import known
from actswap.activations.base import Activation


def activation_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter that belongs to a trainable activation, by its first name in the model.

    >>> from actswap.activations.acon_c import AconC
    >>> sorted(activation_parameters(nn.Sequential(nn.Linear(4, 4), AconC(4))))
    ['1.log_beta', '1.p1', '1.p2']
    """
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

    Weight decay would pull ACON's p1, p2 and beta and Padé coefficients towards zero, which is no neutral value for
    them. So the parameters that `Spec.no_decay` names do not decay. Neither do biases and norm scales, as in the
    published ACON training (nmaac/acon decays only weights of more than one dimension). The matrices inside meta-ACON
    and DY-ReLU are ordinary layers and decay.

    Args:
        model: the network, converted or not.
        weight_decay: for weights of more than one dimension.
        lr: learning rate of the groups outside of activations; None leaves it to the optimizer.
        activation_lr: learning rate of the two activation groups; None takes `lr`.

    Returns:
        Groups named `weights`, `biases`, `activations` and `activation_weights`, in that order, without the empty
        ones. Each trainable parameter is in exactly one group, a shared one once.

    Example:
        >>> from actswap.activations.acon_c import AconC
        >>> groups = param_groups(nn.Sequential(nn.Linear(4, 4), AconC(4)), weight_decay=1e-4, lr=0.1)
        >>> [(group["name"], len(group["params"]), group["weight_decay"]) for group in groups]
        [('weights', 1, 0.0001), ('biases', 1, 0.0), ('activations', 3, 0.0)]
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
    """Return the ids of the parameters that an activation's `Spec` exempts; all of them if it has no Spec."""
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
