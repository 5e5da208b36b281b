"""Adapters: what was trained alone, bound to its base, switched at run time, merged into a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import actswap
from actswap.conversion.head import new_head
from actswap.errors import LoadError, UsageError

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def base() -> nn.Sequential:
    """As SqueezeNet: the head is a convolution with an activation behind it; always the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 7, 1),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ).eval()  # fmt: skip


def trained(seed: int, classes: int | None = None) -> nn.Module:
    """The base converted, with moved activations, and a new head if it is asked for."""
    model = actswap.convert(base(), "acon_c", X).model
    if classes is not None:
        new_head(model, classes, (X,), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(("p1", "p2", "log_beta")) or name.startswith("5."))
        if name.endswith("p1"):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(X)
        return found


def test_an_adapter_is_small_and_gives_the_same_bits(tmp_path: Path) -> None:
    model = trained(2, 3)
    adapter = actswap.save(model, tmp_path / "adapter", only_trained=True)
    whole = actswap.save(model, tmp_path / "bundle")
    size = [(folder / "model.safetensors").stat().st_size for folder in (adapter, whole)]
    assert size[0] < size[1] / 4
    loaded = actswap.load(adapter, base())
    assert torch.equal(output(loaded), output(model))
    merged = actswap.load(actswap.save(loaded, tmp_path / "merged"), base())
    assert torch.equal(output(merged), output(model))
    assert torch.equal(output(actswap.load(adapter, base(), inplace=True)), output(model))


def test_adapters_of_one_base_are_switched(tmp_path: Path) -> None:
    models = {"one": trained(2), "two": trained(3, 3), "three": trained(4, 5)}
    folders = {name: actswap.save(model, tmp_path / name, only_trained=True) for name, model in models.items()}
    model = actswap.load(folders["two"], base())
    for name in ("one", "three"):
        before = output(model)
        assert actswap.add_adapter(model, name, folders[name]) is model
        assert torch.equal(output(model), before)
    plain = output(actswap.convert(base(), "acon_c", X).model)
    for name in ("one", "", "three", "two", "one", "three", ""):
        wanted = output(models[name]) if name else plain
        assert torch.equal(output(actswap.use(model, name)), wanted), name
    with pytest.raises(UsageError, match="known: '', 'two', 'one', 'three'"):
        actswap.use(model, "four")
    with pytest.raises(UsageError, match="taken"):
        actswap.add_adapter(model, "one", folders["one"])


def test_what_does_not_fit_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    folder = actswap.save(trained(2), tmp_path / "one", only_trained=True)
    model = actswap.load(folder, base())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = base()
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(LoadError, match="another base"):
        actswap.load(folder, other)
    foreign = actswap.convert(other, "acon_c", X).model
    for name, parameter in foreign.named_parameters():
        parameter.requires_grad_(name.endswith("p1"))
    strange = actswap.save(foreign, tmp_path / "strange", only_trained=True)
    converted = actswap.convert(base(), "swish", X, start="morph").model.requires_grad_(False)
    converted[5].requires_grad_(True)
    swish = actswap.save(converted, tmp_path / "swish", only_trained=True)
    whole = actswap.save(trained(3), tmp_path / "whole")
    for path, why in (
        (strange, "another base|another conversion"),
        (swish, "another conversion"),
        (whole, "no adapter"),
    ):
        with pytest.raises(LoadError, match=why):
            actswap.add_adapter(model, "two", path)
    document = json.loads((folder / "plan.json").read_text())
    for note in ({"base": "0" * 64}, {}, {"base": 3}):
        (folder / "plan.json").write_text(json.dumps({**document, "adapter": note}))
        with pytest.raises(LoadError, match="another base"):
            actswap.load(folder, base())
        with pytest.raises(LoadError, match="another base"):
            actswap.add_adapter(model, "two", folder)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_was_wholly_trained_is_no_adapter(tmp_path: Path) -> None:
    model = actswap.convert(base(), "acon_c", X).model
    for buffer in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        buffer.requires_grad_(True)
    with pytest.raises(UsageError, match="whole network"):
        actswap.save(model, tmp_path / "out", only_trained=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="carries no adapter"):
        actswap.add_adapter(model, "one", tmp_path)
