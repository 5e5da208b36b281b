"""Padding for the blocked layout: the real channels keep their parameters, the others stay at zero."""

import numpy as np
import pytest
from onnx import helper

from actswap.onnx.blocked import channels, fits, padded, takes_mean
from actswap.onnx.functions import DOMAIN

WIDTH, TO = 5, 8


def node(op: str, **attributes):
    return helper.make_node(op, ["x"], ["y"], domain=DOMAIN, **attributes)


def test_an_elementwise_activation_is_padded_along_its_channels():
    arrays = [np.arange(1.0, WIDTH + 1).reshape(WIDTH, 1, 1).astype(np.float32), np.float32(2.0)]
    assert fits(node("AconB"), arrays) and channels(node("AconB"), arrays) == WIDTH
    p, beta = padded(node("AconB"), arrays, WIDTH, TO)
    assert p.shape == (TO, 1, 1) and p[:WIDTH].ravel().tolist() == [1, 2, 3, 4, 5] and not p[WIDTH:].any()
    assert beta.shape == (), "one value for all channels stays one"


def test_channels_on_another_axis_do_not_fit():
    assert not fits(node("Swish"), [np.ones(WIDTH, np.float32)])
    assert fits(node("Swish"), [np.ones((), np.float32)])
    assert channels(node("Swish"), [np.ones((), np.float32)]) is None


@pytest.mark.parametrize("features", [1, WIDTH])
def test_a_gate_pools_the_real_channels_only(features):
    rng = np.random.default_rng(0)
    w1 = rng.standard_normal((3, features)).astype(np.float32)
    per_channel = [rng.standard_normal((WIDTH, 1, 1)).astype(np.float32) for _ in range(2)]
    arrays = [*per_channel, np.ones(WIDTH, np.float32), w1, np.zeros(3, np.float32)]
    arrays += [rng.standard_normal((WIDTH, 3)).astype(np.float32), np.zeros(WIDTH, np.float32)]
    meta = node("MetaAcon", dim=1, view=[0, WIDTH, 1, 1])
    found = padded(meta, arrays, WIDTH, TO)
    mean = rng.standard_normal(WIDTH).astype(np.float32)
    wide = np.append(mean, np.zeros(TO - WIDTH, np.float32))  # the mean of a padded channel
    wanted = w1 @ mean if features > 1 else w1[:, 0] * mean.mean()
    np.testing.assert_allclose(found[3] @ wide, wanted, rtol=1e-5, atol=1e-6)
    assert not found[5][WIDTH:].any() and not found[0][WIDTH:].any() and not takes_mean(meta)
