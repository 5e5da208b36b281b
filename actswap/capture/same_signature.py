"""A function with the signature of another: what inspects it (torch.fx, torch.export, inspect) sees no difference."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

_EMPTY = inspect.Parameter.empty


def same_signature(function: Callable[..., Any], call: Callable[..., Any]) -> FunctionType:
    """Return a function that looks like a method and passes what it is given to another one.

    Args:
        function: the method.
        call: called as `call(self, args, kwargs)`.

    Returns:
        A function with the parameters and defaults of `function`, without a closure: torch.fx compiles such functions
        anew from their code.

    >>> def scale(self, x, by=2, *rest, clip=None, **more): ...
    >>> like = same_signature(scale, lambda self, args, kwargs: (args, kwargs))
    >>> like(None, 1), like(None, 1, 3, 4, clip=5, z=6)
    (((1, 2), {'clip': None}), ((1, 3, 4), {'clip': 5, 'z': 6}))
    >>> inspect.signature(like)
    <Signature (self, x, by=2, *rest, clip=None, **more)>
    """
    parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())
    owner, rest = parameters[0], parameters[1:]
    header, args, kwargs = [], [], []
    names: dict[str, Any] = {"_actswap_call": call}
    slash = max((i for i, p in enumerate(parameters) if p.kind is p.POSITIONAL_ONLY), default=-1)
    starred = False
    for i, p in enumerate(parameters):
        if p.kind is p.KEYWORD_ONLY and not starred:
            header.append("*")
            starred = True
        starred |= p.kind is p.VAR_POSITIONAL
        stars = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
        default = f"_actswap_default{i}"
        if p.default is not _EMPTY:
            names[default] = p.default
        header.append(stars + p.name + (f"={default}" if p.default is not _EMPTY else ""))
        if i == slash:
            header.append("/")
    for p in rest:
        if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD):
            kwargs.append(f"**{p.name}" if p.kind is p.VAR_KEYWORD else f"'{p.name}': {p.name}")
        else:
            args.append(f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name)
    passed = f"{owner.name}, ({', '.join(args)}{',' if args else ''}), {{{', '.join(kwargs)}}}"
    name = function.__name__ if function.__name__.isidentifier() else "method"  # a lambda
    text = f"def {name}({', '.join(header)}):\n    return _actswap_call({passed})\n"
    exec(compile(text, "<actswap: the signature of a method>", "exec"), names)
    made: FunctionType = names[name]
    functools.update_wrapper(made, function)
    return made
