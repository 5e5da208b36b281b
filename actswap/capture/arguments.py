"""How a module is called: which leaves of its arguments are tensors, and the values of the others."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import TreeSpec, tree_flatten

from actswap.capture.canonical import is_number
from actswap.capture.tape import Ref


@dataclass(frozen=True)
class Arguments:
    """The shape of a call: which leaves of (args, kwargs) are tensors, which numbers, and the values of the rest."""

    spec: TreeSpec
    leaves: tuple[Any, ...]  # `TENSOR`, `NUMBER`, or the constant itself

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any], free_numbers: bool = False) -> Arguments:
        """Describe a call; a tensor is a Tensor, an fx proxy or a `Ref`."""
        leaves, spec = tree_flatten((tuple(args), dict(kwargs)), is_leaf=lambda v: isinstance(v, Ref))
        return cls(spec, tuple(_leaf(v, free_numbers) for v in leaves))

    def accepts(self, leaves: Sequence[Any], spec: TreeSpec) -> bool:
        """True if a call with these leaves is the one described."""
        return (
            spec == self.spec
            and len(leaves) == len(self.leaves)
            and all(_fits(want, have) for want, have in zip(self.leaves, leaves, strict=True))
        )

    def free(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the values of the leaves that are placeholders in the graph."""
        return [have for want, have in zip(self.leaves, leaves, strict=True) if isinstance(want, Marker)]

    def __str__(self) -> str:
        shown = [str(leaf) for leaf in self.leaves]
        return f"({', '.join(shown)})"


@dataclass(frozen=True)
class Marker:
    """A placeholder for a leaf whose value differs from call to call."""

    name: str

    def __str__(self) -> str:
        return self.name


TENSOR, NUMBER = Marker("tensor"), Marker("number")


def _leaf(value: Any, free_numbers: bool) -> Any:
    if isinstance(value, (Tensor, fx.Proxy, Ref)):
        return TENSOR
    if free_numbers and is_number(value):
        return NUMBER
    return value


def _fits(want: Any, have: Any) -> bool:
    if want is TENSOR:
        return isinstance(have, (Tensor, fx.Proxy))
    if want is NUMBER:
        return is_number(have) or isinstance(have, (torch.SymInt, torch.SymFloat, fx.Proxy))
    if isinstance(have, (Tensor, fx.Proxy)):
        return False
    return want is have or (type(want) is type(have) and bool(want == have))


@dataclass(frozen=True)
class Signature:
    """The parameters of a forward: f(x), f(x=x) and f(x, mask=None) are the same call if None is the mask's default.

    Attributes:
        names: the parameters that can be passed by position.
        defaults: their default values.
        keywords: the default values of the keyword-only parameters.
    """

    names: tuple[str, ...]
    defaults: Mapping[str, Any]
    keywords: Mapping[str, Any]

    @classmethod
    def of(cls, module: nn.Module) -> Signature:
        """Read the signature of a module's class. If the forward is decorated, that of the decorator's wrapper."""
        found = inspect.signature(type(module).forward, follow_wrapped=False).parameters.values()
        keywords = {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
        if any(p.kind is p.VAR_POSITIONAL for p in found):
            return cls((), {}, keywords)
        named = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]
        defaults = {p.name: p.default for p in named if p.default is not p.empty}
        return cls(tuple(p.name for p in named), defaults, keywords)

    def normalize(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the call in one form: as many arguments as possible by position, keywords only if not the default."""
        positional = list(args)
        rest = {k: v for k, v in kwargs.items() if k not in self.keywords or v is not self.keywords[k]}
        for name in self.names[len(positional) :]:
            if name in rest:
                positional.append(rest.pop(name))
            elif name in self.defaults:
                positional.append(self.defaults[name])
            else:
                break
        return tuple(positional), rest
