"""Calibration: run real inputs and record what each site sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actswap import activations
from actswap.activations.hooks import hooked
from actswap.capture.evaluating import evaluating
from actswap.conversion.training_only import observe_training
from actswap.errors import UsageError
from actswap.fit.histogram import Histogram, HistogramStream
from actswap.inputs import call_of
from actswap.plan import Choice
from actswap.sites import Progress

# Modules by path. A site whose target differs by channel gives the width and the axis of its channels: these are then
# recorded apart.
Paths = Iterable[str] | Mapping[str, tuple[int, int] | None]


def channels_apart(choice: Choice) -> tuple[int, int] | None:
    """Return the width and the axis of a site's channels if its target has fitted numbers per channel, else None."""
    site = choice.site
    if site.channels is None or "per_channel" not in activations.get(choice.target).options:
        return None
    differs = any(isinstance(value, tuple) for _, value in site.source.params)
    return (site.channels, site.channel_dim) if choice.options.get("per_channel", differs or None) else None


def calibrate(
    model: nn.Module, paths: Paths, batches: Iterable[Any], progress: Progress | None = None
) -> dict[str, Histogram]:
    """Record the histogram of the inputs of the modules at `paths`.

    Args:
        model: a model in which a module of its own stands at every path.
        paths: names of the modules to watch, and the channels that are kept apart.
        batches: inputs as `scan` takes them, or [inputs, labels] lists of a data loader, whose labels are ignored.
        progress: called with (batch, total or 0, text).

    Returns:
        One histogram per path, in bounded memory for any number of batches; its `count` is 0 if the module did not run
        or saw no finite value.

    Raises:
        UsageError: there are no batches.
    """
    total = len(batches) if isinstance(batches, Sized) else 0
    seen = 0
    with watching(model, paths) as streams, evaluating(model):
        for batch in batches:
            args, kwargs = call_of(batch)
            model(*args, **kwargs)
            seen += 1
            if progress is not None:
                progress(seen, total, "calibrating")
    if not seen:
        raise UsageError("the calibration data is empty", fix="pass an iterable of inputs: calibration=[x1, x2]")
    return {path: stream.finish() for path, stream in streams.items()}


def calibrate_in_training(
    model: nn.Module, paths: Paths, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Histogram]:
    """Record the inputs of modules that run only in training, in one pass in train mode.

    Args:
        model: a model in which a module of its own stands at every path.
        paths: names of the modules to watch, and the channels that are kept apart.
        args: positional inputs.
        kwargs: keyword inputs.

    Returns:
        One histogram per path; none for a module that did not run or saw no finite value.
    """
    if not paths:
        return {}
    with watching(model, paths) as streams:
        observe_training(model, args, kwargs)
    return {path: stream.finish() for path, stream in streams.items() if stream.seen}


@contextmanager
def watching(model: nn.Module, paths: Paths) -> Iterator[dict[str, HistogramStream]]:
    """Record the inputs of the modules at `paths` in every run of the model inside the block."""
    apart = dict(paths) if isinstance(paths, Mapping) else dict.fromkeys(paths)
    streams = {path: HistogramStream(channels[0] if channels else None) for path, channels in apart.items()}

    def watch(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        stream, channels = streams[path], apart[path]

        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if isinstance(args[0], Tensor):
                whole = _without_transforms(args[0])
                values = np.asarray(whole.detach().float().cpu().numpy())
                if channels is not None and whole is not args[0]:
                    return  # the axes of one sample are not those of all
                if channels is not None:
                    values = np.moveaxis(values, channels[1], 0).reshape(channels[0], -1)
                stream.update(values)

        return hook

    with hooked(model.get_submodule(path).register_forward_pre_hook(watch(path)) for path in streams):
        yield streams


def _without_transforms(x: Tensor) -> Tensor:
    """Return the numbers of all samples together for a tensor that `torch.vmap` shows one sample of."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x
