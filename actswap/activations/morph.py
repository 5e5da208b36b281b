"""Morph: a source that becomes its target by degrees; exact at t = 0 for every pair."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from actswap.errors import UsageError


class Morph(nn.Module):
    """(1 - t) source(x) + t target(x), with t moved from 0 to 1 during training (`morph_schedule`, `anneal`).

    At t = 0 the value is the source's to the bit wherever the target is finite, at t = 1 the target's. t is a
    tensor in the state dict, so that moving it does not recompile a compiled model.

    Args:
        source_module: the activation that stood there.
        target: the activation that is to stand there.
        t: the target's share at first.

    >>> morph = Morph(nn.ReLU(), nn.Identity(), t=0.25)
    >>> morph(torch.tensor([-4.0, 4.0]))
    tensor([-1.,  4.])
    """

    annealed = "t"
    share: Tensor

    def __init__(self, source_module: nn.Module, target: nn.Module, t: float = 0.0) -> None:
        super().__init__()
        self.source, self.target = source_module, target
        self.register_buffer("share", torch.zeros(()))
        self.t = t

    @property
    def t(self) -> float:
        """The target's share."""
        return float(self.share)

    @t.setter
    def t(self, value: float) -> None:
        if not 0.0 <= value <= 1.0:
            raise UsageError(f"Morph.t = {value}", why="the share of the target lies between 0 and 1")
        self.share.fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the mixture."""
        share = self.share.to(x.dtype)
        mixed: Tensor = (1 - share) * self.source(x) + share * self.target(x)
        return mixed

    def extra_repr(self) -> str:
        """Show t."""
        return f"t={self.t:g}"


def finalize(model: nn.Module) -> int:
    """Replace every morph in the model by its target; all must have arrived at t = 1.

    Args:
        model: changed in place; it must not be a morph itself.

    Returns:
        The number of morphs that were replaced.

    Raises:
        UsageError: a morph is not at t = 1.

    >>> model = nn.Sequential(nn.Linear(4, 4), Morph(nn.ReLU(), nn.SiLU(), t=1.0))
    >>> finalize(model), model[1]
    (1, SiLU())
    """
    places = _places(model)
    for name, _, key, child in places:
        if child.t != 1.0:
            raise UsageError(
                "a morph has not arrived",
                where=f"{name}.{key}".strip("."),
                why=f"t = {child.t:g}; without its source the network would compute something else",
                fix='anneal(model, "t", lambda step: 1.0, 0) first',
            )
    for _, parent, key, child in places:
        setattr(parent, key, child.target)
    return len(places)


def settle(model: nn.Module) -> int:
    """Replace every morph that is at an end by what it computes there: its source at t = 0, its target at t = 1.

    What is multiplied by 0 must not be part of an exported program: it takes time, and 0 times infinity is NaN.

    Args:
        model: changed in place; it must not be a morph itself.

    Returns:
        The number of morphs that were replaced.
    """
    ends = [place for place in _places(model) if place[-1].t in (0.0, 1.0)]
    for _, parent, key, child in ends:
        setattr(parent, key, child.target if child.t else child.source)
    return len(ends)


def finalize_like(model: nn.Module, names: Collection[str]) -> int:
    """Replace the morphs that were finalized before the weights with these names were saved.

    Args:
        model: changed in place.
        names: of the saved weights; a morph that is still one has its share among them.

    Returns:
        The number of morphs that were replaced.
    """
    gone = [place for place in _places(model) if f"{place[0]}.{place[2]}.share".lstrip(".") not in names]
    for _, parent, key, child in gone:
        setattr(parent, key, child.target)
    return len(gone)


def _places(model: nn.Module) -> list[tuple[str, nn.Module, str, Morph]]:
    """Return every morph: the name of the module that holds it, that module, its name there, and itself."""
    return [
        (name, parent, key, child)
        for name, parent in model.named_modules()
        for key, child in parent.named_children()
        if isinstance(child, Morph)
    ]
