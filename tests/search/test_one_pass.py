"""The one-pass scores are what they claim: derivatives of the loss, found here by differences."""

from __future__ import annotations

import pytest
import torch
from search_toy import made, small
from torch.nn import functional

import actswap
from actswap.activations.morph import Morph
from actswap.search.one_pass import one_pass_scores
from actswap.search.site_costs import KEEP

TRAIN = made()[0]
BATCH = (TRAIN.tensors[0].double(), TRAIN.tensors[1])
EXAMPLE = BATCH[0][:2]


@pytest.mark.parametrize("site", ["act", "last"])
def test_the_score_of_a_swap_is_the_slope_of_the_loss_along_the_morph(site: str) -> None:
    """d loss / dt at t = 0 by central differences, step h = 1e-4.

    Their error is h^2/6 of the third derivative, 2e-9 of it, and a few roundings over h, 1e-11.
    """
    model = small().double()
    sites = actswap.scan(model, EXAMPLE)
    scores = one_pass_scores(model, [s for s in sites if s.name == site], [KEEP, "tanh"], EXAMPLE, BATCH, rate=0.0)
    changed = actswap.convert(model, "tanh", EXAMPLE, only=[site], start="morph", verify=False).model
    (morph,) = (m for m in changed.modules() if isinstance(m, Morph))
    losses, step = [], 1e-4
    with torch.no_grad():
        for t in (step, -step):
            morph.share.fill_(t)
            losses.append(float(functional.cross_entropy(changed(BATCH[0]), BATCH[1])))
    slope = (losses[0] - losses[1]) / (2 * step)
    assert scores[site, KEEP] == 0 and scores[site, "tanh"] != 0
    assert scores[site, "tanh"] == pytest.approx(slope, abs=1e-7)


def test_what_training_its_own_parameters_promises_is_subtracted() -> None:
    model = small().double()
    sites = [s for s in actswap.scan(model, EXAMPLE) if s.name == "act"]
    (still, trained) = (
        one_pass_scores(model, sites, ["acon_c"], EXAMPLE, BATCH, rate=rate)["act", "acon_c"] for rate in (0.0, 0.1)
    )
    changed = actswap.convert(model, "acon_c", EXAMPLE, only=["act"], calibration=[BATCH[0]], verify=False).model
    functional.cross_entropy(changed(BATCH[0]), BATCH[1]).backward()
    slopes = sum(float(p.grad.square().sum()) for p in changed.act.parameters())
    # The gradient at the site is that of the unchanged network; ACON begins within 1e-3 of it.
    assert still - trained == pytest.approx(0.1 * slopes, rel=0.05)


def test_the_network_is_not_changed() -> None:
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = EXAMPLE.float()
    sites = actswap.scan(model, x)
    scores = one_pass_scores(model, sites, ["relu", "mish"], x, (BATCH[0].float(), BATCH[1]), scanned=sites)
    assert set(scores) == {(s.name, c) for s in sites for c in (KEEP, "relu", "mish")}
    assert scores["act", "relu"] == pytest.approx(0, abs=1e-6), "it is ReLU already"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
