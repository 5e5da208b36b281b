"""Several adapters on one base are switched at run time; what does not fit is refused and nothing changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from adapter_toy import X, base, output, trained

import actswap
from actswap.errors import LoadError, UsageError


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
