"""Copy a model, even if it holds computed tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx, nn

from actswap.activations.morph import Morph, settle
from actswap.capture.evaluating import one_at_a_time, set_modes
from actswap.capture.graph_module import preserve
from actswap.capture.wrappers import network_in
from actswap.errors import UsageError, first_line


def duplicate(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model.

    A model may hold tensors with a gradient history beside its parameters (a cache, an old-style weight norm). torch
    refuses to copy such a history, so only their values are copied.

    Raises:
        UsageError: the model cannot be copied.
    """
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in _computed(model)}
    if isinstance(model, fx.GraphModule):
        for name in [n for n in vars(model) if n.startswith("_actswap")]:
            preserve(model, name)
    try:
        with one_at_a_time(model), _compiled_copied_whole(model):
            copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise UsageError(
            f"this {type(model).__name__} cannot be copied",
            why=first_line(error),
            fix="actswap.convert(model, ..., inplace=True)",
        ) from error
    # A copy of torchvision's feature extractor is in train mode, whatever the original was in.
    set_modes([(new, old.training) for new, old in zip(copied.modules(), model.modules(), strict=False)])
    return copied


def settled(model: nn.Module) -> nn.Module:
    """Return the model, or a copy of it in which each morph at an end is replaced by what it computes there."""
    if not any(isinstance(module, Morph) and module.t in (0.0, 1.0) for module in model.modules()):
        return model
    copied = duplicate(model)
    settle(copied)
    return copied


@contextmanager
def _compiled_copied_whole(model: nn.Module) -> Iterator[None]:
    """Let what `torch.compile` returned be copied as such.

    It passes the look-up of `__deepcopy__` on to the network inside, which has one once it is converted; then the copy
    would be one of the network alone.
    """
    compiled = next((type(m) for m in model.modules() if network_in(m) is not m and hasattr(m, "dynamo_ctx")), None)
    if compiled is None or hasattr(compiled, "__deepcopy__"):
        yield
        return

    def whole(module: nn.Module, memo: dict[int, Any]) -> Any:
        return copy._reconstruct(module, memo, *module.__reduce_ex__(4))  # type: ignore[attr-defined]

    compiled.__deepcopy__ = whole  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del compiled.__deepcopy__  # type: ignore[attr-defined]


def _computed(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        stack: list[Any] = [vars(module)]
        while stack:
            item = stack.pop()
            if isinstance(item, Tensor) and not item.is_leaf:
                yield item
            elif type(item) is dict:
                stack += item.values()
            elif type(item) in (list, tuple) and len(item) <= 4096:
                stack += item
            elif isinstance(item, Mapping) and not isinstance(item, nn.Module):
                stack += item.values()
