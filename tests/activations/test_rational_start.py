"""Starts of Padé units per channel: each channel's coordinates are those of its own inputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import actswap
from actswap import activations
from actswap.activations.base import StartContext
from actswap.activations.opau import opau_formula
from actswap.activations.pau import pau_formula
from actswap.activations.rational import RationalActivation
from actswap.fit.histogram import Histogram, HistogramStream
from actswap.plan import Plan
from actswap.sites import Source

CHANNELS = 12


def inputs() -> np.ndarray:
    """(C, n): means from -2 to 2, deviations from 0.1 to 3; the last channel is constant."""
    rng = np.random.default_rng(5)
    scale = np.geomspace(0.1, 3.0, CHANNELS)[:, None]
    values = rng.normal(size=(CHANNELS, 3000)) * rng.permutation(scale) + np.linspace(-2, 2, CHANNELS)[:, None]
    values[-1] = 0.5
    return values


def spectrum(unit: RationalActivation, channel: int, x: np.ndarray) -> np.ndarray:
    """Eigenvalues of the mean squared gradient of one channel's coordinates that train, largest first."""
    basis, form = unit.basis_and_form
    rows = unit.coordinates[channel].detach().repeat(len(x), 1).requires_grad_()
    v = unit.centre[channel] + torch.asinh(rows / unit.radius[channel]) @ unit.mix[channel].T
    top, bottom = v.split((unit.degrees[0] + 1, unit.terms), -1)
    tails, inputs = unit.tails[channel], torch.from_numpy(x)[None]
    if basis == "monomial":
        y = pau_formula(inputs, top, bottom, tails, form, 1)
    else:
        y = opau_formula(inputs, top, bottom, tails, basis, form == "A", 1)
    (gradient,) = torch.autograd.grad(y.sum(), rows)
    trains = unit.mix[channel].ne(0.0).any(dim=0)
    return np.linalg.svd(gradient[:, trains].numpy(), compute_uv=False) ** 2 / len(x)


@pytest.mark.parametrize("source", ["relu", "gelu"])
@pytest.mark.parametrize("name", ["pau", "opau", "hp1", "hp2"])
def test_every_channel_is_well_conditioned_on_its_own_inputs(name: str, source: str) -> None:
    """The issue's bounds per channel: condition number 100, largest eigenvalue 10."""
    values, options = inputs(), {"per_channel": True}
    stream = HistogramStream(CHANNELS)
    stream.update(values)
    spec, context = activations.get(name), StartContext(histogram=stream.finish(), options=options)
    unit = spec.build(CHANNELS, 1, **options)
    assert isinstance(unit, RationalActivation)
    unit.load_start(spec.start(Source(source), context).params)
    unit.double()
    for channel in range(CHANNELS - 1):
        size = spectrum(unit, channel, values[channel])
        assert size[0] <= 10 and size[0] <= 100 * size[-1], (channel, size)
    assert len({tuple(row.flatten().tolist()) for row in unit.mix}) > CHANNELS // 2


def test_convert_records_channels_apart_and_the_plan_gives_the_same_again() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 8, 8, generator=generator)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.Conv2d(6, 4, 3), nn.GELU()).eval()
    with torch.no_grad():
        model[0].weight.mul_(torch.linspace(0.2, 5, 6).reshape(6, 1, 1, 1))
    result = actswap.convert(model, "pau", x, start="fit", tolerance=1.0, options={"per_channel": True})
    unit = result.model[1]
    # The wide channel moves as far as the narrow one: its coordinates were found for its own inputs.
    assert not torch.equal(unit.mix[0], unit.mix[5])
    again = Plan.from_dict(result.plan.to_dict())
    assert again == result.plan
    other = actswap.apply_plan(model, again)
    assert torch.equal(other[1].mix, unit.mix) and torch.equal(other[1].radius, unit.radius)


def test_channels_without_values_take_the_coordinates_of_the_layer() -> None:
    joint = Histogram.of(np.random.default_rng(0).normal(size=500))
    nothing = Histogram(0.0, 0.0, 0.0, 0.0, 0, np.zeros(1), np.ones(1))
    apart = dataclasses.replace(joint, channels=(nothing, joint, nothing))
    spec = activations.get("opau")
    params = spec.start(Source("gelu"), StartContext(histogram=apart, options={"per_channel": True})).params
    shared = spec.start(Source("gelu"), StartContext(histogram=joint)).params
    unit = spec.build(3, 1, per_channel=True)
    assert isinstance(unit, RationalActivation)
    unit.load_start(params)
    wanted = torch.tensor(shared["mix"]).reshape(10, 10)
    assert all(torch.allclose(row, wanted, rtol=1e-5) for row in unit.mix)
