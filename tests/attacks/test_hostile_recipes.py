"""Recipes that name code, files elsewhere, or values of the wrong kind: nothing is imported, called or opened."""

from __future__ import annotations

import os
import sys

import pytest
from recipe_texts import GOOD, write

from actswap.cli.main import run
from actswap.errors import LoadError
from actswap.io.model_source import check_library_source
from actswap.recipe import RecipeError, read_recipe

MARKER = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
def net(**options): raise ValueError
data = net
"""


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module of the current folder that leaves a mark when it is imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_module.py").write_text(MARKER)
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    return tmp_path


@pytest.mark.parametrize("key", ["recipe_toy:net", "recipe_toy:data"])
@pytest.mark.parametrize("other", ["", "title = 3\n", "more = 1\n"])
@pytest.mark.parametrize("code", ["evil_module:net", "os:mkdir?path=ran", "evil_module:net?a=1"])
def test_code_that_a_recipe_names_does_not_run(key, other, code, evil, capsys):
    text = (other + GOOD if not other.startswith("title") else GOOD.replace('title = "Toy"', "title = 3")).replace(
        key, code
    )
    text = text if key == "recipe_toy:net" else text.replace("recipe_toy:net", "torchvision:resnet18")
    recipe = write(evil, text)
    for more in ([], ["--dry-run"], ["--allow", "recipe_toy"], ["--allow", "evil"]):
        assert run(["run", str(recipe), "-o", "out", *more]) == 2
        message = capsys.readouterr().err
        assert not (evil / "ran").exists()
    if not other:
        package = code.partition(":")[0]
        assert f"--allow {package}" in message, message


def test_the_users_word_lets_the_code_run(evil, capsys):
    """The test above would pass for a module that leaves no mark."""
    recipe = write(evil, GOOD.replace("recipe_toy:net", "evil_module:net"))
    assert run(["run", str(recipe), "-o", "out", "--allow", "evil_module", "--allow", "recipe_toy"]) == 2
    assert "cannot be built" in capsys.readouterr().err and (evil / "ran").exists()


def test_what_the_command_line_names_is_the_users_own(evil):
    recipe = write(evil, GOOD)
    with pytest.raises(RecipeError, match="--allow recipe_toy"):
        read_recipe(recipe)
    assert read_recipe(recipe, ["model.source=recipe_toy:net", "data.source=recipe_toy:data"])


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.pt", "a/../../secret.pt", "link/secret.pt", "a\0b"])
@pytest.mark.parametrize("key", ["model.source", "model.weights", "data.source"])
def test_files_outside_of_the_current_folder(path, key, tmp_path, monkeypatch):
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "secret.pt").write_bytes(b"x")
    (inside / "link").symlink_to(tmp_path)
    monkeypatch.chdir(inside)
    text = GOOD.replace("recipe_toy:data", "").replace("recipe_toy:net", "torchvision:resnet18")
    text = {
        "model.source": text.replace("torchvision:resnet18", path.replace("\0", "\\u0000")),
        "model.weights": text.replace("[data]", f'weights = "{path}"\n[data]'.replace("\0", "\\u0000")),
        "data.source": text.replace('[data]\nsource = ""', f'[data]\nsource = "{path}"'.replace("\0", "\\u0000")),
    }[key]
    with pytest.raises(RecipeError, match=key):
        read_recipe(write(inside, text))


SOURCES = [
    "timm:resnet18?pretrained=True",
    "timm:resnet18?pretrained_cfg={'url': 'http://127.0.0.1:9/x.pth'}",
    "timm:resnet18?checkpoint_path='/etc/passwd'",
    "timm:resnet18?pretrained_cfg_overlay={'url': 'x'}",
    "timm:resnet18?cache_dir=x",
    "timm:hf-hub:someone/model",
    "timm:local-dir:/elsewhere/x",
    "timm:../x",
    "torchvision:resnet18?weights=DEFAULT",
    "torchvision:fcn_resnet50?weights_backbone=DEFAULT",
    "timm:resnet18?num_classes=10000000000",
    "timm:resnet18?num_classes=[1]",
    "timm:resnet18?act_layer=os.system",
    "timm:",
    "os:system",
]


@pytest.mark.parametrize("text", SOURCES)
def test_sources_that_fetch_or_open_something(text, evil):
    with pytest.raises(LoadError, match="refused"):
        check_library_source(text, "the test")
    with pytest.raises(RecipeError):
        read_recipe(write(evil, GOOD.replace("recipe_toy:net", text)), ["data.source=recipe_toy:data"])


@pytest.mark.parametrize(
    "text", ["timm:resnet18?in_chans=1&num_classes=10", "torchvision:vit_b_16", "timm:vit_tiny.a_in1k"]
)
def test_sources_that_only_size_a_network(text):
    assert check_library_source(text, "the test") == text


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = [" * 5000, b"schema = 1\n" * 2, b"[[[[", b"\0", b"a.b=1\na=2"])
def test_files_that_are_no_recipe(content, tmp_path, capsys):
    (tmp_path / "r.toml").write_bytes(content)
    for verb in ("run", "show"):
        assert run([verb, str(tmp_path / "r.toml")]) == 2
        assert "nothing was started" in capsys.readouterr().err


LONG = {
    "a key of many parts": "a." * 30_000 + "b = 1",
    "a table of many parts": "[" + "a . " * 30_000 + "b]",
    "many unknown keys": "\n".join(f"key{i} = 1" for i in range(30_000)),
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_recipes_that_the_parser_reads_for_minutes(text, tmp_path, capsys):
    (tmp_path / "r.toml").write_text(text)
    assert run(["run", str(tmp_path / "r.toml")]) == 2
    assert "30 parts" in (shown := capsys.readouterr().err) or "larger than" in shown


def test_a_recipe_that_is_a_pipe(tmp_path, capsys):
    os.mkfifo(tmp_path / "r.toml")
    assert run(["run", str(tmp_path / "r.toml")]) == 2
    assert "no file" in capsys.readouterr().err
