"""Exported programs are checked key by key against torch's schema; what torch writes passes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import rewrite
from torch import Tensor, nn

from actswap.errors import LoadError
from actswap.io.exported import check_exported, load_exported


class Branches(nn.Module):
    """A condition, keyword and nested inputs, a constant, a buffer that is written, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(3, 3), torch.tensor(2.0)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, pair: tuple[Tensor, list[Tensor]], *, gain: Tensor) -> dict[str, Tensor]:
        self.count.add_(1)
        x = self.layer(pair[0]) * self.scale + pair[1][0]
        y = torch.cond(x.sum() > 0, torch.relu, torch.tanh, (x,))
        return {"y": y * gain, "n": self.count.clone()}


INPUTS: tuple[Any, dict[str, Any]] = (((torch.ones(2, 3), [torch.ones(3)]),), {"gain": torch.tensor(3.0)})


@pytest.fixture(scope="module")
def written() -> bytes:
    file = io.BytesIO()
    with torch.no_grad():  # torch warns of gradients inside its own condition
        torch.export.save(torch.export.export(Branches(), *INPUTS), file)
    return file.getvalue()


@pytest.fixture
def saved(written: bytes, tmp_path: Path) -> Path:
    (tmp_path / "m.pt2").write_bytes(written)
    return tmp_path / "m.pt2"


def test_what_torch_writes_passes_and_computes_the_same(saved: Path) -> None:
    check_exported(saved)
    module = load_exported(saved)
    first = module(*INPUTS[0], **INPUTS[1])
    assert set(first) == {"y", "n"} and first["n"].item() == 1.0
    expected = torch.export.load(saved).module()(*INPUTS[0], **INPUTS[1])
    assert torch.equal(first["y"], expected["y"])
    assert "train" not in vars(module), "setting the mode does nothing, and raises nothing"
    module.train()
    assert module.meta["example_inputs"][1]["gain"].item() == 3.0


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[str, bytes], bytes]:
    def changed(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        tree = json.loads(data)
        change(tree)
        return json.dumps(tree).encode()

    return changed


def graph(tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = tree["graph_module"]["graph"]
    return found


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda t: t.update(extra=1), "a key"),
        (lambda t: t.pop("graph_module"), "graph_module"),
        (lambda t: graph(t)["nodes"][0].update(target="os.system"), "nodes[0].target"),
        (lambda t: graph(t)["nodes"][0].update(name="a b"), "nodes[0].name"),
        (lambda t: graph(t).update(nodes={}), "nodes"),
        (lambda t: t.update(schema_version={"major": "9", "minor": 1}), "schema_version.major"),
        (lambda t: t.update(guards_code=["__import__('os')"]), "guards_code"),
    ],
)
def test_a_program_of_another_form_is_refused_by_its_key(
    change: Callable[[dict[str, Any]], object], key: str, saved: Path
) -> None:
    rewrite(saved, edit(change))
    with pytest.raises(LoadError) as caught:
        check_exported(saved)
    assert key in caught.value.what


def test_records_that_torch_does_not_write_are_refused(saved: Path) -> None:
    rewrite(saved, lambda name, data: data if "sample_inputs" not in name else b"PK\x03\x04")
    with pytest.raises(LoadError, match="damaged"):
        check_exported(saved)
