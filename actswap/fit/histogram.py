"""Streaming histograms of pre-activations: any number of batches, bounded memory.

Bins are dyadic: bin k of width w = 2^e holds [k·w, (k+1)·w). If the range outgrows the window, w doubles and
neighbouring bins are added up. No value ever changes its bin of the finer grid, so the bins depend neither on how
the data was cut into batches nor on the order of the batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actswap.errors import UsageError
from actswap.fit.points import Array

_CHUNK = 1 << 15  # values handled at once, so that intermediate arrays stay in the cache
_HUGE = 2.0**500  # the square of a larger value may overflow, and with it the standard deviation


@dataclass(frozen=True, eq=False)
class Histogram:
    """Distribution of the inputs of one site (or of one channel of it).

    Attributes:
        lo: smallest value seen.
        hi: largest value seen.
        mean: mean of the values.
        std: their standard deviation (population).
        count: how many values were seen; 0 for a range that was assumed, not measured.
        centroids: (n,) mean value of each non-empty bin, not decreasing.
        weights: (n,) share of the values in each bin; they sum to 1.
        excluded: how many values were left out: NaN, infinite, or of 2^500 and more (possible in float64 only).
        channels: the distribution of each channel, if they were kept apart; not stored.
    """

    lo: float
    hi: float
    mean: float
    std: float
    count: int
    centroids: Array
    weights: Array
    excluded: int = 0
    channels: tuple[Histogram, ...] = ()

    def __post_init__(self) -> None:
        for name in ("centroids", "weights"):
            array = np.array(getattr(self, name), dtype=np.float64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.lo, self.hi, self.mean, self.std, self.count))

    @classmethod
    def uniform(cls, lo: float, hi: float, bins: int = 512) -> Histogram:
        """Assume inputs spread evenly over [lo, hi]; for fits without calibration data."""
        if not (np.isfinite(lo) and np.isfinite(hi) and lo < hi):
            raise UsageError(
                f"Histogram.uniform({lo}, {hi})", why="needs finite lo < hi", fix="Histogram.uniform(-3, 3)"
            )
        edges = np.linspace(lo, hi, bins + 1)
        centres = 0.5 * (edges[1:] + edges[:-1])
        return cls(lo, hi, 0.5 * (lo + hi), (hi - lo) / 12**0.5, 0, centres, np.full(bins, 1.0 / bins))

    @classmethod
    def of(cls, values: ArrayLike) -> Histogram:
        """Return the histogram of one array, whatever its shape.

        >>> Histogram.of([-1.0, 0.0, 4.0]).mean
        1.0
        """
        stream = HistogramStream()
        stream.update(np.asarray(values))
        return stream.finish()

    def samples(self, mix: float = 0.02, points: int = 128) -> tuple[Array, Array]:
        """Points and weights for a weighted least-squares fit.

        Args:
            mix: share of the weight that is spread evenly over [lo, hi]. Without it a few far values weigh
                nothing and the fit is free to be wrong there by any amount.
            points: number of evenly spread points.

        Returns:
            x (n,) increasing and w (n,) positive, sum 1.
        """
        if mix <= 0.0 or not self.lo < self.hi:
            return self.centroids, self.weights
        x = np.concatenate([self.centroids, np.linspace(self.lo, self.hi, points)])
        w = np.concatenate([(1.0 - mix) * self.weights, np.full(points, mix / points)])
        order = np.argsort(x, kind="stable")
        return x[order], w[order]

    def merge(self, *others: Histogram) -> Histogram:
        """Distribution of all the data together; merely assumed ones (count 0) give way to measured ones."""
        parts = [h for h in (self, *others) if h.count]
        excluded = sum(h.excluded for h in (self, *others))
        if len(parts) < 2:
            return replace(parts[0] if parts else self, excluded=excluded)
        count = sum(h.count for h in parts)
        share = np.array([h.count / count for h in parts])
        means = np.array([h.mean for h in parts])
        mean = float(share @ means)
        variance = share @ (np.array([h.std for h in parts]) ** 2 + (means - mean) ** 2)
        x = np.concatenate([h.centroids for h in parts])
        w = np.concatenate([s * h.weights for s, h in zip(share, parts, strict=True)])
        order = np.argsort(x, kind="stable")
        return Histogram(
            min(h.lo for h in parts),
            max(h.hi for h in parts),
            mean,
            float(np.sqrt(variance)),
            count,
            *condense(x[order], w[order], max(h.centroids.size for h in parts)),
            excluded,
        )

    def coarse(self, bins: int) -> Histogram:
        """Return the same distribution in at most `bins` bins; range, mean and deviation stay exact."""
        centroids, weights = condense(self.centroids, self.weights, bins)
        return replace(self, centroids=centroids, weights=weights, channels=())

    def shifted(self, by: float) -> Histogram:
        """Return the distribution of x + by."""
        return replace(
            self,
            lo=self.lo + by,
            hi=self.hi + by,
            mean=self.mean + by,
            centroids=np.asarray(self.centroids) + by,
            channels=tuple(each.shifted(by) for each in self.channels),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        arrays = {"centroids": self.centroids.tolist(), "weights": self.weights.tolist()}
        numbers = ("lo", "hi", "mean", "std", "count", "excluded")
        return {**{name: getattr(self, name) for name in numbers}, **arrays}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Histogram:
        """Rebuild what `to_dict` wrote, to the bit."""
        return cls(**data)


class HistogramStream:
    """Accumulates values batch by batch into one histogram, or one per channel.

    Minimum, maximum and counts are exact, mean and standard deviation exact to rounding (Chan's update).

    Args:
        channels: number of rows that are kept apart; None for one.
        bins: width of the fine window of each row; memory is 16·bins bytes a row.
    """

    def __init__(self, channels: int | None = None, bins: int = 0) -> None:
        rows = channels or 1
        self.channels = channels
        self._bins = bins or (8192 if channels is None else 512)
        self._count = np.zeros((rows, self._bins), dtype=np.int64)
        self._sum = np.zeros((rows, self._bins))
        self._exponent = np.zeros(rows, dtype=np.int64)  # bin width is 2^exponent
        self._first = np.zeros(rows, dtype=np.int64)  # index of the first bin of the window
        self._lo, self._hi = np.full(rows, np.inf), np.full(rows, -np.inf)
        self._total = np.zeros(rows, dtype=np.int64)
        self._mean, self._m2 = np.zeros(rows), np.zeros(rows)
        self._excluded = np.zeros(rows, dtype=np.int64)

    def update(self, values: NDArray[Any]) -> None:
        """Add one batch.

        Args:
            values: any shape without channels; (channels, n) with them. Any floating or integer type.
        """
        if self.channels is not None and (values.ndim != 2 or values.shape[0] != self.channels):
            raise UsageError(
                f"HistogramStream.update got shape {values.shape}",
                why=f"one row per channel is needed: ({self.channels}, n)",
                fix="move the channel axis to the front and flatten the rest",
            )
        for row, line in enumerate(values if self.channels is not None else [values]):
            flat = line.reshape(-1)
            for begin in range(0, flat.size, _CHUNK):
                self._add(row, flat[begin : begin + _CHUNK].astype(np.float64))

    @property
    def seen(self) -> bool:
        """True if there was a finite value."""
        return bool(self._total.any())

    def finish(self, limit: int = 512) -> Histogram:
        """Histogram of everything seen so far, with at most `limit` bins; channels that were kept apart go along."""
        first, *rest = self.per_channel(limit)
        joint = first.merge(*rest)
        return joint if self.channels is None else replace(joint, channels=(first, *rest))

    def per_channel(self, limit: int = 256) -> list[Histogram]:
        """One histogram per channel; a channel that saw no finite value has count 0 and range [0, 0]."""
        return [self._row(row, limit) for row in range(len(self._total))]

    def _add(self, row: int, values: Array) -> None:
        lo, hi = values.min(), values.max()
        if not (lo > -_HUGE and hi < _HUGE):  # also true for NaN
            usable = values[np.abs(values) < _HUGE]
            self._excluded[row] += values.size - usable.size
            if usable.size:
                self._add(row, usable)
            return
        self._lo[row], self._hi[row] = min(self._lo[row], lo), max(self._hi[row], hi)
        self._widen(row)
        place = _bins(values, self._exponent[row])
        place -= self._first[row]
        index = place.astype(np.int64)
        self._count[row] += np.bincount(index, minlength=self._bins)
        self._sum[row] += np.bincount(index, values, minlength=self._bins)

        old, new = int(self._total[row]), values.size
        mean = values.mean()
        gap = mean - self._mean[row]
        self._total[row] = old + new
        np.subtract(values, mean, out=place)
        np.square(place, out=place)
        self._m2[row] += place.sum() + gap**2 * (old * new / (old + new))
        self._mean[row] += gap * (new / (old + new))

    def _widen(self, row: int) -> None:
        """Choose the finest dyadic width whose window holds [lo, hi], and move the counts over."""
        lo, hi = self._lo[row], self._hi[row]
        exponent = _finest(lo, hi, self._bins)
        if self._total[row]:
            exponent = max(exponent, int(self._exponent[row]))
        first = int(_bins(lo, exponent))
        if self._total[row] and (exponent, first) != (self._exponent[row], self._first[row]):
            used = np.flatnonzero(self._count[row])
            shift = min(exponent - int(self._exponent[row]), 62)
            index = ((used + self._first[row]) >> shift) - first
            count, total = np.zeros_like(self._count[row]), np.zeros_like(self._sum[row])
            np.add.at(count, index, self._count[row, used])
            np.add.at(total, index, self._sum[row, used])
            self._count[row], self._sum[row] = count, total
        self._exponent[row], self._first[row] = exponent, first

    def _row(self, row: int, limit: int) -> Histogram:
        total, excluded = int(self._total[row]), int(self._excluded[row])
        if not total:
            return Histogram(0.0, 0.0, 0.0, 0.0, 0, np.zeros(1), np.ones(1), excluded)
        used = np.flatnonzero(self._count[row])
        counts = self._count[row, used]
        # A mean may leave its bin by rounding; put back, the centroids are in the order of the bins.
        left, right = (np.ldexp((used + self._first[row] + side).astype(float), self._exponent[row]) for side in (0, 1))
        centroids = np.clip(self._sum[row, used] / counts, left, right).clip(self._lo[row], self._hi[row])
        std = float(np.sqrt(self._m2[row] / total))
        lo, hi, mean = float(self._lo[row]), float(self._hi[row]), float(self._mean[row])
        return Histogram(lo, hi, mean, std, total, *condense(centroids, counts / total, limit), excluded)


def _bins(values: Any, exponent: int) -> Any:
    """Bin numbers floor(v / 2^exponent), as floats; a new array.

    Dividing by a power of two is exact, except that a quotient below the smallest float becomes zero. The bin of
    a negative value is then -1, as it is on every finer grid.
    """
    place = np.floor(values * np.ldexp(1.0, -exponent))
    return place - ((place == 0.0) & (values < 0.0)) if exponent > 0 else place


def _finest(lo: float, hi: float, bins: int) -> int:
    """Smallest e so that the dyadic bins of width 2^e from lo to hi number at most `bins`."""
    # Past 2^52 bins from zero the index is not exact; -1000 keeps 2^-e finite for data that is all zero.
    largest = max(abs(lo), abs(hi))
    exponent = max(int(np.frexp(largest)[1]) - 52 if largest else -1000, -1000)
    if hi > lo:
        exponent = max(exponent, int(np.frexp((hi - lo) / bins)[1]) - 1)
    while _bins(hi, exponent) - _bins(lo, exponent) >= bins:
        exponent += 1
    return exponent


def condense(x: Array, w: Array, limit: int) -> tuple[Array, Array]:
    """Join neighbours until at most `limit` centroids are left.

    Cells are equal steps of half the cumulated weight plus half the position: the resolution is never worse
    than half of what either alone would give, so one far outlier costs nothing.
    """
    if x.size <= limit:
        return x, w
    cumulated = np.cumsum(w) - 0.5 * w
    place = 0.5 * cumulated / w.sum() + 0.5 * (x - x[0]) / (x[-1] - x[0])
    cell = np.minimum((place * limit).astype(np.int64), limit - 1)
    weight: Array = np.bincount(cell, w, minlength=limit).astype(np.float64)
    total: Array = np.bincount(cell, w * x, minlength=limit).astype(np.float64)
    used = weight > 0.0
    return np.clip(total[used] / weight[used], x[0], x[-1]), weight[used]
