"""Converted models are copied and pickled; read in another process they compute the same bits."""

from __future__ import annotations

import copy
import importlib
import io
import linecache
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import joblib
import pytest
import torch
from pickled_nets import NETS, Functional, X
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import actswap
import actswap.conversion.survey as survey_module
from actswap.capture.installed import written_class
from actswap.conversion.passes.reinstall import reinstalled
from actswap.errors import CaptureError, UsageError


def converted(name: str, target: str = "acon_c") -> nn.Module:
    torch.manual_seed(3)
    return actswap.convert(NETS[name]().eval(), target, X).model


def through_torch(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def through_joblib(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "oldest pickle": lambda m: pickle.loads(pickle.dumps(m, protocol=2)),
    "torch": through_torch,
    "cloudpickle": lambda m: pickle.loads(cloudpickle.dumps(m)),
    "joblib": through_joblib,
    "deepcopy": copy.deepcopy,
    "twice": lambda m: through_torch(copy.deepcopy(through_torch(m))),
}


def assert_same(read: nn.Module, model: nn.Module) -> None:
    assert written_class(read) is written_class(model) or isinstance(model, torch.fx.GraphModule)
    assert list(read.state_dict()) == list(model.state_dict())
    for mode in (True, False):
        ours, theirs = model.train(mode)(X), read.train(mode)(X)
        assert torch.equal(ours, theirs)
        a = torch.autograd.grad(ours.sum(), list(model.parameters()), allow_unused=True)
        b = torch.autograd.grad(theirs.sum(), list(read.parameters()), allow_unused=True)
        assert all((g is None and h is None) or torch.equal(g, h) for g, h in zip(a, b, strict=True))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", NETS)
def test_a_copy_computes_the_same_bits(name: str, way: Callable[[Any], Any]) -> None:
    model = converted(name)
    read = way(model)
    assert_same(read, model)
    for own, other in zip(model.parameters(), read.parameters(), strict=True):
        assert own is not other
    if isinstance(model, torch.fx.GraphModule) and way is not copy.deepcopy:
        with pytest.raises(UsageError, match=r"before its conversion|was not converted"):
            actswap.revert(read)
    else:
        assert torch.equal(actswap.revert(read).eval()(X), actswap.revert(model).eval()(X))


@pytest.mark.parametrize("name", NETS)
def test_a_shallow_copy_shares_the_weights(name: str) -> None:
    model = converted(name)
    shallow = copy.copy(model)
    assert torch.equal(shallow(X), model(X))
    if not isinstance(model, torch.fx.GraphModule):  # which copy themselves deep
        assert all(a is b for a, b in zip(shallow.parameters(), model.parameters(), strict=True))


def test_another_process_computes_the_same_bits(tmp_path: Path) -> None:
    rows = []
    for name in NETS:
        model = converted(name)
        rows.append((name, model, model.eval()(X).detach(), model.train()(X).detach()))
    torch.save(rows, tmp_path / "models.pt")
    run_here = [sys.executable, "-W", "error", "-m", "pickled_nets", str(tmp_path / "models.pt")]
    done = subprocess.run(run_here, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_a_traced_forward_is_traced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no single expression makes the call, the forward is traced: here that is made the only way."""

    def no_rewrite(*args: Any) -> Any:
        raise CaptureError("no rewriting in this test")

    for name in [n for n in vars(survey_module) if n.startswith("rewrite")]:
        monkeypatch.setattr(survey_module, name, no_rewrite)
    model = converted("functional")
    assert not model._actswap_record.plan.islands[0].rewrites  # type: ignore[union-attr]
    for way in WAYS.values():
        assert_same(way(model), model)
    extractor = create_feature_extractor(through_torch(model), {"b": "out"})
    assert torch.equal(extractor(X)["out"], model(X))


def test_a_model_converted_twice() -> None:
    model = NETS["stack"]().eval()
    once = actswap.convert(model, "acon_c", X, only="type:relu").model
    twice = actswap.convert(once, "pau", X, start="morph").model
    for way in WAYS.values():
        read = way(twice)
        assert_same(read, twice)
        assert torch.equal(actswap.revert(read).eval()(X), model(X))


SOURCE = """
import torch.nn.functional as F
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
    def forward(self, x):
        return F.relu(self.a(x)){more}
"""


def written(tmp_path: Path, more: str) -> ModuleType:
    (tmp_path / "net_that_changes.py").write_text(SOURCE.format(more=more))
    sys.modules.pop("net_that_changes", None)
    importlib.invalidate_caches()
    linecache.checkcache()
    return importlib.import_module("net_that_changes")


def test_a_class_that_has_changed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights can be read and the conversion taken back; calling it says what happened."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    net = written(tmp_path, "").Net().eval()
    saved = pickle.dumps(actswap.convert(net, "acon_c", X).model)
    changed = written(tmp_path, " * 2")
    read = pickle.loads(saved)
    assert written_class(read) is changed.Net
    with pytest.raises(CaptureError, match="cannot run as it was converted") as raised:
        read(X)
    assert "has changed" in raised.value.why
    assert torch.equal(actswap.revert(read)(X), 2 * net(X))


class Counted(nn.Linear):
    def __reduce__(self) -> Any:
        return Counted, (4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(super().forward(x))


def test_a_class_with_its_own_way_of_pickling_is_refused_in_words() -> None:
    model = actswap.convert(Counted(4, 4).eval(), "acon_c", X).model
    with pytest.raises(pickle.PicklingError, match=r"actswap\.save"):
        pickle.dumps(model)


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", '[{"fixed": {"forward": 0}}]', '[{"plan": {}, "members": []}]', '[{"members": ["a"]}]']
)
def test_a_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        reinstalled(Functional, text)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("how", ["here", "read"])
@pytest.mark.parametrize("name", ["functional", "graph module", "own state", "forward on the instance"])
def test_tools_see_a_converted_model_as_the_original(name: str, how: str) -> None:
    model = converted(name)
    if how == "read":
        model = through_torch(model)
    expected = model(X)
    if name != "forward on the instance":  # fx traces the forward of the class, also of the original
        assert torch.equal(torch.fx.symbolic_trace(model)(X), expected)
        assert torch.equal(create_feature_extractor(model, {"b": "out"})(X)["out"], expected)
    assert torch.equal(torch.jit.trace(model, X)(X), expected)
    assert torch.equal(torch.export.export(model, (X,)).module()(X), expected)
    plain = NETS[name]()
    assert isinstance(model, type(plain)) or name == "graph module"
    assert type(model).__name__ == type(plain).__name__ or name == "graph module"
    assert torch.optim.swa_utils.AveragedModel(model)(X).equal(expected)
