"""Show the exporter a forward that takes and returns tensors, whatever the model's own takes and returns.

Toolkits pass graphs, batches and tensors with metadata, and return dataclasses. The exporter knows tensors, lists and
dicts. So the forward stands, for as long as the export takes, behind one with an argument for every tensor that the
inputs hold; it returns dicts in the place of dataclasses.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from actswap.errors import ExportError, UsageError
from actswap.onnx.capture import Inputs

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout)
_DEPTH = 8


@contextmanager
def plain_call(model: nn.Module, inputs: Inputs) -> Iterator[Inputs]:
    """Let `model` take tensors, and return tensors in lists and dicts, within the block.

    Args:
        model: its `forward` is another one within the block.
        inputs: what the model takes.

    Yields:
        The inputs of the other forward: those given if they are plain already, else one tensor for each that they hold.

    Raises:
        ExportError: when it is called, if the model returns an object of a class that holds tensors.

    >>> class Net(nn.Module):
    ...     def forward(self, batch):
    ...         return batch.x + 1
    >>> from types import SimpleNamespace
    >>> net = Net()
    >>> with plain_call(net, ((SimpleNamespace(x=torch.zeros(2)),), {})) as (args, kwargs):
    ...     list(kwargs), net(**kwargs)
    (['batch_x'], tensor([1., 1.]))
    """
    before = model.__dict__.get("forward")
    own: Any = model.forward.__func__ if isinstance(model.forward, MethodType) else None
    function = own or model.forward
    signature = inspect.signature(function)
    takes: Any = None
    if not _is_plain(inputs):
        found = _named_tensors(model, inputs)
        takes = _Rebuilt(inputs, found)
        inputs = (), {name: _bare(tensor) for name, tensor in found.items()}
        keyword = inspect.Parameter.KEYWORD_ONLY
        first = [next(iter(signature.parameters.values()))] if own is not None else []
        signature = inspect.Signature([*first, *(inspect.Parameter(name, keyword) for name in found)])

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if takes is not None:
            args, kwargs = takes(kwargs)
        return _plain_output(function(self, *args, **kwargs) if own is not None else function(*args, **kwargs), self)

    if own is None:  # the signature of a bound method leaves its first parameter out
        me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        signature = signature.replace(parameters=[me, *signature.parameters.values()])
    forward.__signature__ = signature  # type: ignore[attr-defined]
    model.__dict__["forward"] = MethodType(forward, model)
    try:
        yield inputs
    finally:
        if before is None:
            del model.__dict__["forward"]
        else:
            model.__dict__["forward"] = before


class _Rebuilt:
    """Makes the arguments of the model from tensors: copies of the example's, with these tensors in their places."""

    def __init__(self, inputs: Inputs, found: Mapping[str, Tensor]) -> None:
        self.inputs, self.found = inputs, found

    def __call__(self, given: Mapping[str, Any]) -> Inputs:
        memo = {id(tensor): given[name] for name, tensor in self.found.items()}
        made: Inputs = copy.deepcopy(self.inputs, memo)
        return made


def _is_plain(inputs: Inputs) -> bool:
    leaves = pytree.tree_leaves(inputs)
    return all(isinstance(leaf, _PLAIN) or (isinstance(leaf, Tensor) and _bare(leaf) is leaf) for leaf in leaves)


def _bare(tensor: Tensor) -> Tensor:
    """Return a tensor without the class that a toolkit gave it (MONAI's MetaTensor); torch's own classes trace."""
    return tensor if type(tensor).__module__.partition(".")[0] == "torch" else tensor.as_subclass(Tensor)


def _named_tensors(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    args, kwargs = inputs
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in inspect.signature(model.forward).bind(*args, **kwargs).arguments.items():
        for path, tensor in _tensors(value, (name,), seen, 0):
            text = re.sub(r"\W", "_", "_".join(path))
            number = 0
            while (free := f"{text}_{number}" if number else text) in found:
                number += 1
            found[free] = tensor
    if not found:
        raise UsageError("no tensor was found in the inputs", fix="export_onnx(model, torch.randn(1, 3, 32, 32), ...)")
    return found


def _tensors(value: Any, path: tuple[str, ...], seen: set[int], depth: int) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Yield every tensor that an input holds, once, with the public names on the way to it."""
    if isinstance(value, _PLAIN) or id(value) in seen or depth > _DEPTH or isinstance(value, (type, nn.Module)):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield path, value
        return
    if isinstance(value, Mapping):
        parts: Any = value.items()
    elif isinstance(value, (list, tuple)):
        parts = zip(getattr(value, "_fields", range(len(value))), value, strict=False)
    else:
        parts = getattr(value, "__dict__", {}).items()
    for key, part in parts:
        shown = () if str(key).startswith("_") else (str(key),)
        yield from _tensors(part, (*path, *shown), seen, depth + 1)


def _plain_output(output: Any, model: nn.Module) -> Any:
    """Return an output as tensors, lists and dicts."""
    if isinstance(output, _PLAIN):
        return output
    if isinstance(output, Tensor):
        return _bare(output)
    if isinstance(output, Mapping):
        return {str(key): _plain_output(value, model) for key, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return {name: _plain_output(value, model) for name, value in zip(output._fields, output, strict=True)}
    if isinstance(output, (list, tuple, Iterator)):
        return [_plain_output(value, model) for value in output]
    if hasattr(output, "__dataclass_fields__"):
        return {name: _plain_output(getattr(output, name), model) for name in output.__dataclass_fields__}
    kind = type(output).__name__
    caches = "Cache" in kind
    raise ExportError(
        f"{type(model).__name__} returns a {kind}, which an ONNX file cannot hold",
        why="it serves the next call of generate()" if caches else "an output is a tensor, or lists and dicts of them",
        fix="actswap export ... --kwarg use_cache=false, or export_onnx(..., example_kwargs={'use_cache': False})"
        if caches
        else "return tensors: wrap the model in a module whose forward takes them out",
    )
