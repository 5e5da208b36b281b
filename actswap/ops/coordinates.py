"""Padé units by their coordinates: the coefficients and the rational function as one step of autograd.

A unit trains coordinates u; numerator and denominator are v = centre + mix asinh(u / radius)
(`actswap.fit.coordinates`). On a small tensor the handful of torch calls for v and its gradient would cost more than
the rational function itself, so the fast path makes v within the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from actswap.ops import dispatch, switch
from actswap.ops.registry import Operator, is_eager, operators

_dispatch_modes = torch._C._len_torch_dispatch_stack
_TENSORS = 6  # x, u, radius, mix, centre, tails


def coefficients(u: Tensor, radius: Tensor, mix: Tensor, centre: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Return numerator and denominator, in plain PyTorch.

    Args:
        u: coordinates, (k,) or (C, k).
        radius: like u.
        mix: (k, k) or (C, k, k).
        centre: like u.
        top: the first so many of the k coefficients are the numerator.
    """
    bent = torch.asinh(u / radius)
    autocast = not u.is_meta and torch.is_autocast_enabled(u.device.type)
    with torch.autocast(u.device.type, enabled=False) if autocast else nullcontext():
        if u.dim() == 1:
            v = torch.addmv(centre, mix, bent)
        else:
            v = torch.baddbmm(centre.unsqueeze(-1), mix, bent.unsqueeze(-1)).squeeze(-1)
    numerator, denominator = v.split_with_sizes((top, v.shape[-1] - top), -1)
    return (numerator, denominator) if u.dim() == 1 else (numerator.contiguous(), denominator.contiguous())


def by_coordinates(name: str) -> Callable[..., Tensor | None]:
    """Return the fast path of an operator whose coefficients are given by coordinates.

    Args:
        name: of an operator `name(x, numerator, denominator, tails, *options)`.

    Returns:
        A function of (x, u, radius, mix, centre, tails, top, *options) that returns y, or None if the call is not
        plain (traced, under a transform or mode, another type or device). Then make it with `coefficients`. It is not
        for code that torch.compile reads.
    """
    short: Any = dispatch.fast_path(name)
    if short is None:
        return lambda *args: None
    function: Any = _function(operators()[name], short)
    apply = super(torch.autograd.Function, function).apply  # a plain call is under no transform

    def call(*args: Any) -> Tensor | None:
        if switch._current != "auto":
            return None
        found = short.through(*args)
        if found is True:
            # The first call of its kind. Its result must have the bits of the later ones: the kernel makes both.
            with torch.no_grad():
                short.forward(*_ordinary(args))
            found = short.through(*args)
        if found is None or found is True:
            # The call is not for the fast path. The step of autograd is the same if a mode is all that hinders it:
            # torch's checkpoint counts what both of its runs save, and the second may be outside of the mode.
            needed = torch.is_grad_enabled() and (args[0].requires_grad or args[1].requires_grad)
            found = False if needed and is_eager(args) else None
        y: Tensor | None = apply(*args) if found is False else found
        return y

    return call


def _function(operator: Operator, short: Any) -> type[torch.autograd.Function]:
    name = operator.name

    class ByCoordinates(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Tensor:
            ctx.save_for_backward(*args[:_TENSORS])
            ctx.options = args[_TENSORS:]
            y = short.through_forward(*args)
            if not isinstance(y, Tensor):  # not for the fast path, or another thread's call took the place of this kind
                ordinary = _ordinary(args)
                if _dispatch_modes():  # they must see the operator
                    with torch._C._AutoDispatchBelowAutograd():
                        seen: Tensor = getattr(torch.ops.actswap, name)(*ordinary)
                        return seen
                found = dispatch.forward(name, ordinary)
                y = operator.reference(*ordinary) if found is None else found[0]
            return y

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            args = (*ctx.saved_tensors, *ctx.options)
            needs_x, needs_u = ctx.needs_input_grad[:2]
            found: Any = None
            if not torch.is_grad_enabled():
                found = short.through_backward(grad, args, needs_x, needs_u)
                if found is True:
                    short.backward(grad, _ordinary(args), None, [True, True, True, False])
                    found = short.through_backward(grad, args, needs_x, needs_u)
            if not isinstance(found, tuple):
                found = _gradients(operator, grad, args, needs_x, needs_u)
            return *found, *[None] * (len(args) - 2)

    ByCoordinates.__name__ = f"{name}_by_coordinates"
    return ByCoordinates


def _ordinary(args: Sequence[Any]) -> tuple[Any, ...]:
    """The operator's own arguments."""
    x, u, radius, mix, centre, tails, top, *options = args
    return (x, *coefficients(u, radius, mix, centre, top), tails, *options)


def _gradients(
    operator: Operator, grad: Tensor, args: Sequence[Any], needs_x: bool, needs_u: bool
) -> list[Tensor | None]:
    """The gradients of x and u through the operator's own backward; differentiable if gradients are enabled."""
    twice = torch.is_grad_enabled()
    with torch.enable_grad():
        # A node of its own: u is a leaf, and what the caller holds may be part of another graph.
        u = args[1].view_as(args[1]) if twice else args[1].detach().requires_grad_(needs_u)
        ordinary = _ordinary((args[0], u, *args[2:]))
    needs = [needs_x, needs_u, needs_u, False]
    if twice:
        parts: Sequence[Tensor | None] = operator.reference_gradients(grad, ordinary, needs, create_graph=True)
    else:
        plain = (args[0], *(c.detach() for c in ordinary[1:3]), *ordinary[3:])
        parts = dispatch.backward(operator.name, grad, plain, None, needs) or operator.reference_gradients(
            grad, plain, needs, create_graph=False
        )
    if not needs_u:
        return [parts[0], None]
    known = [(c, g) for c, g in zip(ordinary[1:3], parts[1:3], strict=True) if g is not None]
    (of_u,) = torch.autograd.grad([c for c, _ in known], [u], [g for _, g in known], create_graph=twice)
    return [parts[0], of_u]
