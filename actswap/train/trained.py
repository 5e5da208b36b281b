"""Which parameters train: activations, head, biases, norms, all, or those that a selector names."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from actswap.conversion.head import head_of
from actswap.errors import UsageError
from actswap.record import remember_trained
from actswap.train.groups import activation_parameters

WORDS = ("all", "activations", "head", "bias", "norm")


def parts_of(text: str) -> list[str]:
    """Split a list such as `activations,head` at its commas.

    >>> parts_of("activations, head")
    ['activations', 'head']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def trained_parameters(model: nn.Module, text: str) -> dict[str, nn.Parameter]:
    """Return the parameters that a list names, by their names in the model.

    Args:
        model: the network.
        text: words and selectors with commas between. `activations`: the parameters of trainable activations. `head`:
            the classifier. `bias`: every bias. `norm`: scales and shifts of normalisations. `all`. Anything else is a
            glob over parameter names (`layer4.*`), or a regular expression after `re:`.

    Raises:
        UsageError: a word or selector names no parameter.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    >>> list(trained_parameters(model, "head,norm"))
    ['1.weight', '1.bias', '3.weight', '3.bias']
    """
    parts = parts_of(text)
    if not parts:
        raise UsageError("nothing to train", why="the list is empty", fix=f"one or more of {', '.join(WORDS)}")
    wanted: set[str] = set()
    for part in parts:
        names = _named(model, part)
        if not names:
            raise _nothing(model, part)
        wanted |= names
    return {name: parameter for name, parameter in model.named_parameters() if name in wanted}


def _named(model: nn.Module, part: str) -> set[str]:
    parameters = dict(model.named_parameters())
    if part == "all":
        return set(parameters)
    if part == "activations":
        return set(activation_parameters(model))
    if part == "head":
        inside = {id(p) for p in head_of(model)[1].parameters()}
        return {name for name, p in parameters.items() if id(p) in inside}
    if part == "bias":
        return {name for name in parameters if name.rpartition(".")[2] == "bias"}
    if part == "norm":
        # Libraries have norms of their own (LayerNorm2d, LlamaRMSNorm): the class's name says it.
        norms = [m for m in model.modules() if "norm" in type(m).__name__.lower() and not list(m.children())]
        inside = {id(p) for m in norms for p in m.parameters(recurse=False)}
        return {name for name, p in parameters.items() if id(p) in inside}
    if part.startswith("re:"):
        try:
            pattern = re.compile(part[3:])
        except re.error as problem:
            raise UsageError(f"{part!r} is no regular expression", why=str(problem), fix="re:layer[34]") from None
        return {name for name in parameters if pattern.search(name)}
    return {name for name in parameters if fnmatch.fnmatchcase(name, part) or fnmatch.fnmatchcase(name, f"{part}.*")}


def _nothing(model: nn.Module, part: str) -> UsageError:
    if part == "activations":
        return UsageError(
            "no activation to train", why="the network has no trainable activation", fix='train = "all", or convert it'
        )
    names = [name for name, _ in model.named_parameters()]
    near = difflib.get_close_matches(part, [*WORDS, *names], 3, 0.5) or names[:3]
    return UsageError(f"train = {part!r} names no parameter", fix=f"{', '.join(WORDS)}, or one like {', '.join(near)}")


@contextmanager
def trainable_only(model: nn.Module, text: str) -> Iterator[None]:
    """Freeze every parameter that the list does not name, and restore afterwards what was trainable before.

    A parameter that the user has frozen stays frozen. The model remembers what was trained (`record.trained_in`).
    """
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    wanted = {id(parameter) for parameter in trained_parameters(model, text).values()}
    for parameter, _ in before:
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in wanted)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    remember_trained(model, names)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def still_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorms of which nothing trains: their statistics belong to the frozen network, so they stay."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    return [m for m in norms if not any(p.requires_grad for p in m.parameters(recurse=False))]
