"""torch's fused encoder kernels, which compute an activation themselves and would skip the module put in its place."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from actswap.capture.installed import install_methods
from actswap.conversion.passes.reinstall import fixed_attribute, origin_of_fixed
from actswap.plan import Plan

_KERNELS: Mapping[type[nn.Module], tuple[str, object]] = {
    nn.TransformerEncoderLayer: ("activation_relu_or_gelu", 0),  # its fused kernel computes the activation itself
    nn.TransformerEncoder: ("use_nested_tensor", False),  # nested tensors are for that kernel
}


def fused(model: nn.Module, plan: Plan) -> list[tuple[nn.Module, str, object]]:
    """List the modules whose fused kernel would skip a chosen call, with the attribute and value that turn it off."""
    paths = [c.path for c in plan.choices]
    return [
        (module, *attribute)
        for name, module in model.named_modules()
        for kind, attribute in _KERNELS.items()
        if isinstance(module, kind) and any(path.startswith(f"{name}." if name else "") for path in paths)
    ]


def bypass_kernels(model: nn.Module, plan: Plan) -> None:
    """Turn off every fused kernel that would skip a chosen call."""
    for module, name, value in fused(model, plan):
        install_methods(module, {name: fixed_attribute(value)}, origin_of_fixed(name, value))
