"""Streaming histograms: exact moments, bins that do not depend on the batches, bounded size."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actswap.errors import UsageError
from actswap.fit.histogram import Histogram, HistogramStream


def stream_of(batches, **options):
    stream = HistogramStream(**options)
    for batch in batches:
        stream.update(batch)
    return stream


LIMIT = 2.0**500  # larger values are excluded
TINY = 5e-324  # the smallest number of all: divided by any power of two it is zero


@settings(max_examples=100)
@given(
    st.sampled_from([1e-300, 1.0, 1e6, 1e100, np.nextafter(LIMIT, 0.0)]).flatmap(
        lambda m: arrays(np.float64, st.integers(1, 300), elements=st.floats(-m, m))
    ),
    st.lists(st.integers(0, 300), max_size=4),
)
@example(np.array([-TINY, 8191.0, 0.0]), [1])
@example(np.array([-TINY, 1e100, 0.0]), [1])
@example(np.array([TINY, -TINY, 1e6, -0.0]), [2])
@example(np.array([-1e-300, 1e6, 1e100, -1e100]), [1, 2])
def test_bins_do_not_depend_on_the_cut_into_batches(values, cuts):
    whole = stream_of([values]).finish()
    parts = stream_of(np.split(values, sorted(c % values.size for c in cuts))).finish()
    backwards = stream_of([values[::-1][:7], values[::-1][7:]]).finish()
    scale = np.abs(values).max() + 1e-300
    assert np.all(np.diff(whole.centroids) >= 0)
    for other in (parts, backwards):
        assert (other.lo, other.hi, other.count) == (values.min(), values.max(), values.size)
        np.testing.assert_array_equal(whole.weights, other.weights)
        # a centroid is a sum of at most 300 values: 300 roundings of the largest
        np.testing.assert_allclose(whole.centroids, other.centroids, rtol=0, atol=300 * 2.3e-16 * scale)
        np.testing.assert_allclose(other.mean, values.mean(), rtol=0, atol=300 * 2.3e-16 * scale)
        np.testing.assert_allclose(other.std, values.std(), rtol=1e-6, atol=1e-13 * scale)


def test_values_whose_square_overflows_are_excluded():
    histogram = Histogram.of(np.array([1.0, 3.0, LIMIT, -1.7e308, np.nan, np.inf]))
    assert (histogram.count, histogram.excluded) == (2, 4)
    assert (histogram.lo, histogram.hi, histogram.mean, histogram.std) == (1.0, 3.0, 2.0, 1.0)


def test_centroids_stay_in_order_though_sums_round():
    """Bins two roundings wide: the sum of many values of one bin is off by more than that."""
    values = 1.0 + np.array([0] + [100] + [102] * 32000) * 2.0**-52
    histogram = Histogram.of(values)
    assert np.all(np.diff(histogram.centroids) >= 0)
    np.testing.assert_array_equal(histogram.weights * 32002, [1, 1, 32000])


@settings(max_examples=40)
@given(arrays(np.float32, st.integers(1, 200), elements=st.floats(width=32)))
def test_non_finite_values_are_counted_and_left_out(values):
    histogram = Histogram.of(values)
    finite = values[np.isfinite(values)].astype(np.float64)
    assert histogram.count == finite.size
    assert histogram.excluded == values.size - finite.size
    assert np.isfinite(histogram.centroids).all()
    assert np.isfinite([histogram.mean, histogram.std]).all()
    np.testing.assert_allclose(histogram.weights.sum(), 1.0, atol=1e-12)
    if finite.size:
        assert (histogram.lo, histogram.hi) == (finite.min(), finite.max())
        assert histogram.lo <= histogram.centroids.min() <= histogram.centroids.max() <= histogram.hi


def test_the_range_grows_over_many_batches_at_bounded_size():
    rng = np.random.default_rng(0)
    batches = [rng.normal(0, 10.0**k, 2000) for k in range(-3, 4)]
    histogram = stream_of(batches).finish()
    values = np.concatenate(batches)
    assert histogram.centroids.size <= 512
    # mass is moved within a bin only, so a quantile is off by one bin's mass at most
    for q in (0.1, 0.5, 0.9):
        x = np.quantile(values, q)
        assert abs(histogram.weights[histogram.centroids <= x].sum() - q) <= histogram.weights.max()
    assert histogram.std == pytest.approx(values.std(), rel=1e-12)


def test_one_far_outlier_leaves_the_bulk_resolved():
    rng = np.random.default_rng(1)
    bulk = rng.normal(0, 1, 20000)
    histogram = Histogram.of(np.append(bulk, 300.0))
    inside = histogram.centroids[np.abs(histogram.centroids) < 1]
    assert np.diff(inside).max() < 0.1  # fine width 512/8192 = 0.0625
    assert histogram.hi == 300.0
    x, w = histogram.samples(mix=0.02)
    assert w[x > 10].sum() == pytest.approx(0.02 * 290 / 306, rel=0.05)


def test_constant_and_empty_data():
    same = Histogram.of(np.full(10, 2.5))
    assert (same.lo, same.hi, same.mean, same.std) == (2.5, 2.5, 2.5, 0.0)
    np.testing.assert_array_equal(same.samples()[0], [2.5])
    zeros = stream_of([np.zeros(4), np.array([1e30, -1e-30])]).finish()
    assert zeros.count == 6 and zeros.weights.sum() == pytest.approx(1.0)
    empty = Histogram.of(np.array([np.nan, np.inf]))
    assert empty.count == 0 and empty.excluded == 2


def test_channels_are_kept_apart_and_add_up():
    rng = np.random.default_rng(2)
    data = rng.normal(0, 1, (3, 4000)) * np.array([[0.1], [1.0], [20.0]])
    stream = stream_of([data[:, :1000], data[:, 1000:]], channels=3)
    for row, histogram in zip(data, stream.per_channel(), strict=True):
        assert (histogram.lo, histogram.hi) == (row.min(), row.max())
        assert histogram.std == pytest.approx(row.std(), rel=1e-12)
        assert histogram.centroids.size <= 256
    layer = stream.finish()
    assert layer.count == data.size
    assert layer.std == pytest.approx(data.std(), rel=1e-12)
    assert (layer.weights * layer.centroids).sum() == pytest.approx(data.mean(), abs=1e-12)
    with pytest.raises(UsageError, match="one row per channel"):
        stream.update(np.zeros(5))


def test_json_round_trip_to_the_bit():
    histogram = Histogram.of(np.random.default_rng(3).standard_t(3, 5000))
    again = Histogram.from_dict(json.loads(json.dumps(histogram.to_dict())))
    assert again == histogram and hash(again) == hash(histogram)
    assert again != Histogram.uniform(-1, 1)


def test_merge_is_the_histogram_of_both():
    rng = np.random.default_rng(4)
    a, b = rng.normal(2, 1, 3000), rng.normal(-5, 0.2, 1000)
    merged, both = Histogram.of(a).merge(Histogram.of(b)), np.concatenate([a, b])
    assert merged.count == 4000 and (merged.lo, merged.hi) == (both.min(), both.max())
    assert merged.mean == pytest.approx(both.mean()) and merged.std == pytest.approx(both.std())
    assert (merged.weights * merged.centroids).sum() == pytest.approx(both.mean())
    assert Histogram.uniform(-1, 1).merge(merged) == merged


def test_uniform_mixture_has_the_asked_mass():
    x, w = Histogram.of(np.random.default_rng(5).normal(0, 1, 5000)).samples(mix=0.02, points=64)
    assert np.all(np.diff(x) >= 0) and w.min() > 0 and w.sum() == pytest.approx(1.0)
    plain, weights = Histogram.uniform(-3, 3).samples(mix=0.0)
    assert plain.size == 512 and weights.sum() == pytest.approx(1.0)
    with pytest.raises(UsageError, match="lo < hi"):
        Histogram.uniform(1, 1)
