"""Calibration: run real inputs and record what each site sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor, nn

from actswap.activations.hooks import hooked
from actswap.capture.evaluating import evaluating
from actswap.conversion.training_only import observe_training
from actswap.errors import UsageError
from actswap.fit.histogram import Histogram, HistogramStream
from actswap.inputs import call_of
from actswap.sites import Progress


def calibrate(
    model: nn.Module, paths: Iterable[str], batches: Iterable[Any], progress: Progress | None = None
) -> dict[str, Histogram]:
    """Record the histogram of the inputs of the modules at `paths`.

    Args:
        model: a model in which a module of its own stands at every path.
        paths: names of the modules to watch.
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
    model: nn.Module, paths: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Histogram]:
    """Record the inputs of modules that run only in training, in one pass in train mode.

    Args:
        model: a model in which a module of its own stands at every path.
        paths: names of the modules to watch.
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
def watching(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, HistogramStream]]:
    """Record the inputs of the modules at `paths` in every run of the model inside the block."""
    streams = {path: HistogramStream() for path in paths}

    def watch(stream: HistogramStream) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if isinstance(args[0], Tensor):
                stream.update(np.asarray(args[0].detach().float().cpu().numpy()))

        return hook

    with hooked(model.get_submodule(path).register_forward_pre_hook(watch(s)) for path, s in streams.items()):
        yield streams
