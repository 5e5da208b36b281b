"""New heads: of any classifier whose last layer is a Linear or a 1 x 1 convolution; bundles keep them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import actswap
from actswap.conversion.head import head_of, new_head, new_heads
from actswap.errors import LoadError, UsageError


class Late(nn.Module):
    """The head is registered first, and an auxiliary one last, which runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 5)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.aux = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x).mean((2, 3))
        return self.out(features) + (0.0 * self.aux(features).sum() if self.training else 0.0)


class Convolutional(nn.Module):
    """As SqueezeNet: the head is a 1 x 1 convolution with an activation and a mean behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(8, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).flatten(1)


class Wrapped(Convolutional):
    """As transformers: an object with logits, and a count of labels."""

    num_labels = 5

    def forward(self, x: Tensor) -> SimpleNamespace:  # type: ignore[override]
        return SimpleNamespace(logits=super().forward(x))


X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("build", "name"), [(Late, "out"), (Convolutional, "classifier.1"), (Wrapped, "classifier.1")])
def test_the_last_layer_that_runs_is_replaced(build: type[nn.Module], name: str) -> None:
    model = build().train()
    body = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith(name)}
    random = torch.get_rng_state()
    assert new_head(model, 3, (X,)) == name
    assert torch.equal(torch.get_rng_state(), random) and model.training
    output = model(X)
    assert getattr(output, "logits", output).shape == (4, 3)
    assert new_heads(model) == {name: 3} and head_of(model)[0] == name
    assert getattr(model, "num_labels", 3) == 3
    fresh = build()
    new_head(fresh, 3, (X,))
    assert torch.equal(fresh.get_submodule(name).weight, model.get_submodule(name).weight), "the seed decides"
    model_state = model.state_dict()
    assert all(torch.equal(model_state[k], v) for k, v in body.items() if "running" not in k and "num_b" not in k)


def test_what_cannot_be_a_head_is_refused_and_nothing_changes() -> None:
    model = Late().eval()
    before = model(X)
    with pytest.raises(UsageError, match="not the network's head"):
        new_head(model, 3, (X,), "aux")
    with pytest.raises(UsageError, match="no head"):
        new_head(model, 3, (X,), "body.0")
    with pytest.raises(UsageError, match="at least one"):
        new_head(model, 0, (X,))
    with pytest.raises(UsageError, match="has no head"):
        new_head(nn.Sequential(nn.Flatten()), 3, (X,))
    assert torch.equal(model(X), before) and not new_heads(model)


def test_a_bundle_keeps_the_head(tmp_path: Path) -> None:
    base = Convolutional().eval()
    model = actswap.convert(base, "acon_c", X).model
    new_head(model, 3, (X,))
    model.eval()
    folder = actswap.save(model, tmp_path / "bundle")
    loaded = actswap.load(folder, Convolutional()).eval()
    # The unit behind the head, with a slope for each class, is as wide as the head.
    assert torch.equal(loaded(X), model(X)) and new_heads(loaded) == {"classifier.1": 3, "classifier.2": 3}
    again = actswap.load(actswap.save(loaded, tmp_path / "again"), Convolutional()).eval()
    assert torch.equal(again(X), model(X))
    plan = folder / "plan.json"
    text = plan.read_text()
    for bad in ('"features.1": 3', '"classifier.1": 4', '"nowhere": 3', '"classifier.1": "3"', '"classifier.2": 1e9'):
        plan.write_text(text.replace('"classifier.1": 3', bad))
        with pytest.raises(LoadError):
            actswap.load(folder, Convolutional())
