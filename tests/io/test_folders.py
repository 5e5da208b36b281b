"""Model folders of transformers and timm, and weights in shards."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from factories import tied
from safetensors.torch import save_file

from actswap.cli.main import run
from actswap.errors import LoadError
from actswap.io.folders import read_shards
from actswap.io.loading import load_model

IDS = torch.arange(1, 9).reshape(1, 8)


def sharded(folder: Path, state: dict[str, torch.Tensor], **names: str) -> Path:
    """Write each tensor into a file of its own, and the index of all; `names` are other names for some files."""
    listed = {}
    for i, (name, tensor) in enumerate(state.items()):
        file = f"model-{i:05d}.safetensors"
        save_file({name: tensor.clone()}, folder / file)
        listed[name] = names.get(name.replace(".", "_"), file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return index


def other_weights() -> dict[str, torch.Tensor]:
    state = {name: torch.randn_like(value) for name, value in tied().state_dict().items()}
    del state["2.weight"]  # tied weights are saved once
    return state


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=40
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert", max_shard_size="20KB")
    return tmp_path / "bert"


def test_shards_fill_a_factory(tmp_path: Path) -> None:
    state = other_weights()
    loaded = load_model(sharded(tmp_path, state), model="factories:tied")
    assert loaded.kind == "safetensors"
    found = loaded.module.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert torch.equal(found["2.weight"], state["0.weight"]), "the tied weight follows"


def test_a_weight_that_is_tied_to_nothing_given_is_missing(tmp_path: Path) -> None:
    state = other_weights()
    del state["0.weight"]
    with pytest.raises(LoadError, match=r"0\.weight"):
        load_model(sharded(tmp_path, state), model="factories:tied")


@pytest.mark.parametrize("name", ["../model-00000.safetensors", "/etc/passwd", "missing.safetensors", ".."])
def test_shards_outside_the_folder_or_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    state = other_weights()
    save_file({"0.weight": state["0.weight"]}, tmp_path / "model-00000.safetensors")
    with pytest.raises(LoadError, match=r"names|missing"):
        load_model(sharded(tmp_path / "in", state, **{"0_weight": name}), model="factories:tied")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": []}', "[" * 100000])
def test_damaged_indices(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(LoadError):
        load_model(tmp_path / "model.safetensors.index.json", model="factories:tied")


def test_a_folder_of_transformers_in_shards(bert: Path) -> None:
    assert len(list(bert.glob("*.safetensors"))) > 1
    loaded = load_model(bert)
    again = type(loaded.module).from_pretrained(bert).eval()
    assert loaded.kind == "folder"
    with torch.no_grad():
        assert torch.equal(loaded.module(IDS).logits, again(IDS).logits)


def test_a_folder_is_converted_verified_and_reverted(
    bert: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bert.parent)
    for command in ("convert bert --to acon_c", "verify bert bert.acon_c", "revert bert.acon_c"):
        assert run(command.split()) == 0, capsys.readouterr().err
    assert "bit for bit" in capsys.readouterr().out


def test_a_folder_of_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=5).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 5, "pretrained_cfg": {"num_classes": 5}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path).module(x), model(x))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"architectures": []},
        {"architectures": ["os"]},
        {"architectures": ["NoSuchModel"]},
        {"architectures": ["AutoTokenizer"], "auto_map": {"AutoModel": "evil.Model"}},
        {"architecture": "../../etc"},
        [],
    ],
)
def test_folders_that_name_no_model(tmp_path: Path, config: object) -> None:
    """Nothing that lies in the folder is run."""
    mark = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(LoadError):
        load_model(tmp_path)
    assert not mark.exists()


def test_pickled_weights_in_a_folder_are_refused(bert: Path) -> None:
    for file in bert.glob("*.safetensors*"):
        file.unlink()
    torch.save({}, bert / "pytorch_model.bin")
    with pytest.raises(LoadError, match="safetensors"):
        load_model(bert)


def rewritten(folder: Path, change: dict[str, torch.Tensor | None]) -> Path:
    """Put all weights of a folder into one file, with some added (a tensor) or taken away (None)."""
    index = folder / "model.safetensors.index.json"
    state = {**read_shards(index), **change}
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    save_file({n: t.clone() for n, t in state.items() if t is not None}, folder / "model.safetensors")
    return folder


def test_a_head_that_is_missing_is_not_filled_at_random(bert: Path) -> None:
    with pytest.raises(LoadError, match=r"missing: cls\.predictions\.transform\.dense\.weight"):
        load_model(rewritten(bert, {"cls.predictions.transform.dense.weight": None}))


def test_a_folder_of_another_class(bert: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**config, "architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(LoadError, match=r"classifier(?s:.*)not in the model: cls"):
        load_model(bert)


def test_weights_that_the_network_does_not_know_are_left_out_if_asked(
    bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = load_model(bert).module(IDS).logits
    rewritten(bert, {"cls.seq_relationship.weight": torch.ones(2, 16), "cls.seq_relationship.bias": torch.ones(2)})
    command = ["convert", str(bert), "--to", "acon_c"]
    assert run(command) == 3
    hint = next(line for line in capsys.readouterr().err.splitlines() if "try:" in line).partition("try: actswap ")[2]
    assert shlex.split(hint) == [*command, "--drop", "cls.seq_relationship"]
    assert run(shlex.split(hint)) == 0, capsys.readouterr().err
    assert torch.equal(load_model(bert, drop=["cls.seq_relationship"]).module(IDS).logits, expected)
    assert run(["revert", f"{bert}.acon_c"]) == 0, "the bundle knows what was left out"


def test_a_folder_of_a_converted_model(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As save_pretrained and Trainer write it: the weights of the conversion, and the configuration of the original."""
    monkeypatch.chdir(bert.parent)
    assert run(["convert", "bert", "--to", "acon_c"]) == 0
    converted = load_model("bert.acon_c").module
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter += 0.01
    converted.save_pretrained("checkpoint-500")
    with pytest.raises(LoadError, match=r"converted model(?s:.*)actswap rebuild checkpoint-500 --bundle"):
        load_model("checkpoint-500")
    assert run(["rebuild", "checkpoint-500", "--bundle", "bert.acon_c", "-o", "after"]) == 0
    with torch.no_grad():
        assert torch.equal(load_model("after").module(IDS).logits, converted.eval()(IDS).logits)


def test_a_folder_of_a_quantised_model(bert: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (bert / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match=r"quantised(?s:.*)float model"):
        load_model(bert)


def test_a_folder_of_several_models(bert: Path) -> None:
    """As a pipeline of diffusers is saved."""
    with pytest.raises(LoadError, match=r"1 models(?s:.*)bert"):
        load_model(bert.parent)
