"""The head of a classifier: the last Linear layer or 1 x 1 convolution, and a new one for other classes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from actswap.activations.base import Activation
from actswap.activations.hooks import hooked
from actswap.capture.evaluating import evaluating, modes_kept
from actswap.errors import UsageError

_MARK = "_actswap_head"
_NAMES = ("head", "heads", "fc", "classifier", "final_conv", "last_linear")


def is_head(module: nn.Module) -> bool:
    """Return True for a layer that can be a head: a Linear, or a 1 x 1 convolution without groups."""
    if isinstance(module, nn.Linear):
        return True
    return isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1} and module.groups == 1


def head_of(model: nn.Module, run: Callable[[], Any] | None = None) -> tuple[str, nn.Module]:
    """Find the head.

    A head that `new_head` made comes first. Else it is the last such layer that runs; if nothing can be run, the last
    one among the model's modules.

    Args:
        model: the network.
        run: runs it on an example.

    Returns:
        Its name and the layer.

    Raises:
        UsageError: the model has no such layer.

    >>> head_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)))[0]
    '2'
    """
    layers = {name: module for name, module in model.named_modules() if is_head(module)}
    for name, module in layers.items():
        if module.__dict__.get(_MARK):
            return name, module
    called: list[str] = []
    if run is not None and layers:
        watch = [m.register_forward_hook(lambda *_, name=n: called.append(name)) for n, m in layers.items()]
        with hooked(iter(watch)), evaluating(model):
            run()
    if not called:
        # Registered last is not always called last: an auxiliary head may come behind.
        called = [n for n in layers if n.split(".")[0] in _NAMES] or list(layers)
    if not called:
        raise UsageError(
            f"{type(model).__name__} has no head",
            why="it has no Linear layer and no 1 x 1 convolution",
            fix="name the parameters to train: --train 'layer4.*'",
        )
    return called[-1], layers[called[-1]]


def new_head(model: nn.Module, classes: int, args: tuple[Any, ...], name: str = "", seed: int = 0) -> str:
    """Put a new head for so many classes on a network, in place.

    Args:
        model: a classifier; torchvision's, timm's and transformers' are, and any whose last layer is a Linear or a
            1 x 1 convolution.
        classes: width of the new output.
        args: an example of its inputs.
        name: of the layer; "" looks for the last one that runs.
        seed: of the new weights.

    Returns:
        The name of the layer.

    Raises:
        UsageError: there is no such layer, or the network's output does not have the layer's width afterwards.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1000))
    >>> new_head(model, 10, (torch.zeros(2, 3, 4),))
    '1'
    >>> model(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 10])
    """
    if classes < 1:
        raise UsageError(f"a head for {classes} classes", why="needs at least one", fix="--head 10")
    modules = dict(model.named_modules())
    if name:
        if name not in modules or not is_head(modules[name]):
            some = [n for n, m in modules.items() if is_head(m)][-3:]
            raise UsageError(f"{name!r} is no head", why="not a Linear or 1 x 1 convolution", fix=" or ".join(some))
        old = modules[name]
    else:
        name, old = head_of(model, lambda: model(*args))
    placed = like(old, classes, seed)
    put(model, name, placed)
    before: dict[str, nn.Module] = {}
    units = {n: m for n, m in model.named_modules() if isinstance(m, Activation)}
    watch = (m.register_forward_pre_hook(partial(_refit, n, before)) for n, m in units.items())
    try:
        with hooked(watch), modes_kept(model), torch.no_grad():  # `evaluating` would undo what the hooks do
            width = _width(model.eval()(*args))
    except BaseException:
        _put_back(model, {**before, name: old})
        raise
    if width != classes:
        _put_back(model, {**before, name: old})
        raise UsageError(
            f"{name} is not the network's head",
            why=f"with {classes} outputs there the network gives {width}",
            fix="name the layer: --head NAME=10",
        )
    for attribute in ("num_classes", "num_labels"):  # timm; transformers, whose own loss reads it
        if isinstance(getattr(model, attribute, None), int):
            setattr(model, attribute, classes)
    return name


def _refit(name: str, before: dict[str, nn.Module], unit: Activation, args: tuple[Any, ...]) -> None:
    """Give a unit behind the head, as in SqueezeNet, as many channels as now come in."""
    if unit.channels is not None and isinstance(args[0], Tensor):
        width = int(args[0].shape[unit.channel_dim])
        if width != unit.channels:
            before[name] = copy.deepcopy(unit)
            refit(unit, width)


def _put_back(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        put(model, name, module)


@torch.no_grad()
def refit(unit: Activation, width: int) -> None:
    """Give a unit another number of channels, in place: the first ones, repeated if there are too few."""
    old = unit.channels or 1
    for module in unit.modules():
        for numbers in (module._parameters, module._buffers):
            for name, tensor in numbers.items():
                if tensor is None or old not in tensor.shape:
                    continue
                new = tensor.detach()
                for axis in [a for a, size in enumerate(tensor.shape) if size == old]:
                    new = new.index_select(axis, torch.arange(width, device=new.device) % old)
                new = new.clone()
                trains = isinstance(tensor, nn.Parameter)
                numbers[name] = nn.Parameter(new, tensor.requires_grad) if trains else new  # type: ignore[assignment]
    unit.channels = width
    unit.__dict__[_MARK] = True


def like(old: nn.Module, classes: int, seed: int = 0) -> nn.Module:
    """A new layer of the kind of `old` with so many outputs, marked as a head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: nn.Module
        if isinstance(old, nn.Linear):
            made = nn.Linear(old.in_features, classes, old.bias is not None)
        else:
            assert isinstance(old, nn.Conv2d)
            made = nn.Conv2d(old.in_channels, classes, 1, bias=old.bias is not None)
            made.stride, made.padding = old.stride, old.padding
    weight = old.weight
    assert isinstance(weight, Tensor)
    made.to(weight.device, weight.dtype).train(old.training)
    made.__dict__[_MARK] = True
    return made


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer at a name."""
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, layer)


def new_heads(model: nn.Module) -> dict[str, int]:
    """Return what `new_head` has changed: names and widths of heads, and of the units behind them."""
    found = {name: m for name, m in model.named_modules() if m.__dict__.get(_MARK)}
    widths = {n: m.weight.shape[0] for n, m in found.items() if is_head(m) and isinstance(m.weight, Tensor)}
    return {**widths, **{n: m.channels for n, m in found.items() if isinstance(m, Activation) and m.channels}}


def _width(output: Any) -> int:
    """The number of classes in what a network returns: a tensor, a tuple, or an object with `logits`."""
    found = getattr(output, "logits", output)
    while isinstance(found, (tuple, list)) and found:
        found = found[0]
    return int(found.shape[1]) if isinstance(found, Tensor) and found.dim() >= 2 else 0
