"""Signal: how much the outputs of a network vary. An error must be small relative to that.

An output of 300 +- 1 with an error of 0.3 has lost a third of its signal, although the error is only a thousandth of
its size. So the constant part of an output is subtracted first. It depends on the network: one offset for all (a bias),
one per feature (a bias vector), or one per element (the grid that a detector adds). Each is tried; the one that leaves
the least variation is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actswap.inputs import varied

_ROUNDINGS = 4  # of an output, in its own precision: smaller errors cannot be measured
_NO_SIGNAL = 2 * _ROUNDINGS  # roundings: an output that varies by no more counts as constant
_FEW = 16  # values that are enough to estimate the spread of one feature
_FAINT = 20 * _ROUNDINGS  # roundings: the least spread that an error of a feature is measured against
_FAINTEST = 1e-2  # of the median feature's spread: the same for a feature that is nearly dead
_MOST_RUNS = 4  # extra inputs that a network with few output numbers is run on


@dataclass(frozen=True)
class Features:
    """How each feature of an output varies.

    Attributes:
        axis: the axis of the output that holds the features.
        spreads: standard deviation of each.
        sizes: root mean square of each.
    """

    axis: int
    spreads: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class Signal:
    """How one output varies over samples and elements, after its constant part is subtracted.

    Attributes:
        spread: standard deviation; for a constant output, its root mean square.
        peak: largest deviation from the constant part.
        size: root mean square of the output itself.
        eps: relative rounding error of its precision.
        features: the axes with enough values per feature to measure each feature against its own spread.
        note: a remark for the user if the output is constant or one number.
    """

    spread: float
    peak: float
    size: float
    eps: float
    features: tuple[Features, ...] = ()
    note: str = ""

    @property
    def rounding(self) -> float:
        """The error of a few roundings of the output, relative to its spread."""
        return _ROUNDINGS * self.eps * self.size / self.spread if self.spread else 0.0

    @property
    def largest_rounding(self) -> float:
        """The same for the feature with the smallest spread relative to its size."""
        of_features = [float((_ROUNDINGS * self.eps * f.sizes / f.spreads).max()) for f in self.features]
        return max([self.rounding, *of_features])

    def error(self, delta: Tensor) -> float:
        """Return the relative error of a difference: the largest of 2-norm, maximum norm and worst feature.

        Args:
            delta: reference minus output, float64, without infinities and NaN.
        """
        rms = float(delta.square().mean().sqrt())
        if not self.spread:
            return float(delta.norm())
        ratios = [rms / self.spread, float(delta.abs().max()) / self.peak]
        fitting = [f for f in self.features if f.axis < delta.dim() and delta.shape[f.axis] == len(f.spreads)]
        return max([*ratios, *(float((_rms(delta, f.axis) / f.spreads).max()) for f in fitting)])


def signals_of(references: Sequence[Sequence[Tensor]]) -> tuple[Signal, ...]:
    """Return the signal of every output.

    Args:
        references: outputs of the same network, one list for every input it was run on.

    Returns:
        One signal for each output, in order.
    """
    return tuple(signal_of([run[i] for run in references if i < len(run)]) for i in range(len(references[0])))


def signal_of(runs: Sequence[Tensor]) -> Signal:
    """Return the signal of one output, seen on one or more inputs."""
    first = runs[0]
    if first.is_meta or first.numel() == 0 or not (first.is_floating_point() or first.is_complex()):
        return Signal(0.0, 0.0, 0.0, 0.0)
    eps = float(torch.finfo(first.dtype).eps)
    x = _stacked([as_real(t) for t in runs])
    finite = x.isfinite()
    x = torch.where(finite, x, x[finite].mean() if finite.any() else torch.zeros_like(x))
    size = float(x.square().mean().sqrt())
    found = [v for v in _variations(x) if v[0] > _NO_SIGNAL * eps * size]
    if not found:
        note = "an output is one number: its error is relative to its size" if x.numel() == 1 else ""
        note = note or "an output is constant: its error is relative to its size"
        return Signal(size, float(x.abs().max()), size, eps, (), note)
    spread, peak = min(found)
    return Signal(spread, peak, size, eps, _features(x, eps))


def more_runs(
    model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], results: Sequence[Tensor]
) -> list[tuple[tuple[tuple[Any, ...], dict[str, Any]], list[Tensor]]]:
    """Run a model on further inputs of the same kind, if the given ones do not show how its outputs vary.

    A batch of one does not show how samples differ, and a single number does not vary.

    Returns:
        (inputs, outputs) of every run; none if the given inputs suffice, or if the model does not run on others.
    """
    runs = []
    for seed in range(_runs_needed(results)):
        inputs = varied(args, kwargs, seed)
        if inputs is None:
            break
        try:
            found = list(model(*inputs))
        except Exception:  # the user's code may refuse inputs that it was not given
            break
        if [t.shape for t in found] != [t.shape for t in results]:
            break
        runs.append((inputs, found))
    return runs


def few(results: Sequence[Tensor]) -> bool:
    """Return True if an output has so few numbers that its error may be small by chance."""
    return any(t.is_floating_point() and not t.is_meta and 0 < t.numel() < _FEW for t in results)


def _runs_needed(results: Sequence[Tensor]) -> int:
    needed = 0
    for t in results:
        if t.is_meta or t.numel() == 0 or not t.is_floating_point():
            continue
        if t.numel() < _FEW:
            needed = max(needed, min(_MOST_RUNS, -(-_FEW // t.numel())))
        elif t.shape[0] < 2 or _over_samples(t) < 0.1:
            needed = max(needed, 1)
    return needed


def _over_samples(t: Tensor) -> float:
    """Return the share of an output's spread that is between its samples."""
    x = t.double()
    whole = float((x - x.mean()).square().mean().sqrt())
    return float((x - x.mean(0)).square().mean().sqrt()) / whole if whole > 0 else 0.0


def as_real(t: Tensor) -> Tensor:
    """Return a tensor in float64 on the CPU, a complex one as pairs."""
    if t.is_complex():
        t = torch.view_as_real(t.resolve_conj())
    return t.detach().to_dense().double().cpu() if t.layout is not torch.strided else t.detach().double().cpu()


def _stacked(runs: Sequence[Tensor]) -> Tensor:
    """Return the runs stacked on a new first axis; runs of different batch sizes are joined to one long batch."""
    first = runs[0].reshape(runs[0].shape or (1,))
    same = [t.reshape(t.shape or (1,)) for t in runs]
    if all(t.shape == first.shape for t in same):
        return torch.stack(same)
    return torch.cat([t for t in same if t.shape[1:] == first.shape[1:]])[None]


def _variations(x: Tensor) -> Iterable[tuple[float, float]]:
    """Yield (spread, peak) of what is left after the mean over some axes is subtracted.

    Axes of x: runs, samples, then those of the output.
    """
    everything = tuple(range(x.dim()))
    over = [everything, (0,), (0, 1), *(tuple(a for a in everything if a != axis) for axis in range(2, x.dim()))]
    for axes in dict.fromkeys(over):
        count = 1
        for axis in axes:
            count *= x.shape[axis]
        if count < 2:
            continue
        rest = x - x.mean(axes, keepdim=True)
        known = count / (count - 1)  # a mean takes one degree of freedom
        yield float(rest.square().mean() * known) ** 0.5, float(rest.abs().max()) * known**0.5


def _features(x: Tensor, eps: float) -> tuple[Features, ...]:
    """Return how every feature varies, for the axes (of the output) that may hold features."""
    axes = (2, 3) if x.dim() == 4 else (2,) if x.dim() > 2 else ()
    found = []
    for axis in axes:
        if x.shape[axis] > 1 and x.numel() // x.shape[axis] >= _FEW:
            others = tuple(a for a in range(x.dim()) if a != axis)
            spreads, sizes = _rms(x - x.mean(others, keepdim=True), axis), _rms(x, axis)
            varying = spreads[spreads > _NO_SIGNAL * eps * sizes]
            if len(varying):
                least = (_FAINT * eps * sizes).clamp(min=_FAINTEST * float(varying.median()))
                found.append(Features(axis - 1, spreads.maximum(least), sizes))
    return tuple(found)


def _rms(x: Tensor, axis: int) -> Tensor:
    """Return the root mean square over all other axes."""
    return x.square().mean(tuple(a for a in range(x.dim()) if a != axis)).sqrt()
