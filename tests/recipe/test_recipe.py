"""Recipes: every problem at once before anything starts, and one command from model to report."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from recipe_texts import GOOD, write
from safetensors.torch import load_file

from actswap.io import bundle
from actswap.recipe import RecipeError, prepare, read_recipe, run_recipe, to_dict
from actswap.recipe.recipe import check_files

TOY = ("recipe_toy",)


def problems(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, overrides, allow=TOY)
    assert len(set(caught.value.problems)) == len(caught.value.problems)
    return "\n".join(caught.value.problems)


def test_a_recipe_is_read_into_plain_data(tmp_path):
    recipe = read_recipe(write(tmp_path, GOOD), ["tune.lr=0.2", "title=Other", "convert.only=['relu@1']"], allow=TOY)
    assert recipe.tune.lr == 0.2 and recipe.title == "Other" and recipe.convert.only == ("relu@1",)
    assert recipe.tune.schedules["beta"].end == 50.0 and recipe.measured[0].date == "2026-11-22"
    assert json.loads(json.dumps(to_dict(recipe)))["tune"]["batch"] == 16


def test_every_problem_of_a_file_is_listed_at_once(tmp_path):
    bad = """
    schema = 2
    titel = "Toy"
    [model]
    source = "missing/model.pt"
    input = [1, "three", 12, 12]
    weights = "missing.safetensors"
    [convert]
    target = "acon_z"
    only = "relu"
    tolerance = "small"
    [tune]
    epochs = true
    batchsize = 3
    optimizer = 3
    resume = true
    schedules.morph = {start = 0.0, stop = 1.0}
    [export]
    onnx = 1
    """
    found = problems(write(tmp_path, bad))
    for word in (
        "schema: is 2",
        "titel: unknown key, did you mean title?",
        "title: is missing",
        "model.input[1]: must be a whole number, is 'three'",
        "convert.only: must be a list",
        "convert.tolerance: must be a number",
        "tune.epochs: must be a number, is true",
        "tune.batchsize: unknown key",
        "tune.optimizer: must be a text, is 3",
        "tune.resume: is set by",
        "tune.schedules.morph.end: is missing",
        "tune.schedules.morph.stop: unknown key",
        "export.onnx: must be true or false, is 1",
    ):
        assert word in found, found


def test_values_of_the_right_type_are_checked_too(tmp_path):
    text = GOOD.replace("[tune]", "[tune]\nema = 2.0\noptimizer = 'adam'").replace('"acon_c"', '"acon_d"')
    text = text.replace("recipe_toy:data", "no/such/folder").replace("[4, 3, 12, 12]", "[0]")
    text = text.replace('source = "recipe_toy:net"', 'source = "net.pt"\nweights = "none.pt"')
    text = text.replace('target = "acon_d"', 'target = "acon_d"\nstart = "soon"\ntolerance = -1.0')
    found = problems(write(tmp_path, text))
    for word in (
        "tune.ema",
        "tune.optimizer",
        "convert.target",
        "acon_c",
        "data.source",
        "model.input",
        "net.pt",
    ):
        assert word in found, found
    for word in ("none.pt", "convert.start", "convert.tolerance"):
        assert word in found, found


def test_options_of_the_target_are_known(tmp_path):
    text = GOOD.replace('target = "acon_c"', 'target = "meta_acon"\noptions = {spce = "layer"}')
    assert "meta_acon has no option spce" in problems(write(tmp_path, text))


def test_targets_by_selector(tmp_path):
    rules = 'targets = {"relu1" = "meta_acon(space=layer)", "*" = "acon_c"}'
    read = read_recipe(write(tmp_path, GOOD.replace('target = "acon_c"', rules)), allow=TOY)
    assert read.convert.asked == {"relu1": "meta_acon(space=layer)", "*": "acon_c"}
    assert "either target, or targets" in problems(write(tmp_path, GOOD.replace('target = "acon_c"', "")))
    both = GOOD.replace('target = "acon_c"', f'target = "acon_c"\n{rules}')
    assert "either target, or targets" in problems(write(tmp_path, both))
    wrong = GOOD.replace('target = "acon_c"', rules.replace("acon_c", "acon_d"))
    assert "convert.targets: there is no activation 'acon_d'" in problems(write(tmp_path, wrong))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("title = ", "is not TOML"),
        ("", "schema: is missing"),
        ("schema = 1\nmodel = 3", "model: must be a table, is 3"),
    ],
)
def test_a_file_that_is_hardly_a_recipe_is_refused_by_name(tmp_path, text, word):
    assert word in problems(write(tmp_path, text))


def test_a_missing_file_and_a_wrong_override_are_refused(tmp_path):
    assert "cannot be read" in problems(tmp_path / "none.toml")
    path = write(tmp_path, GOOD)
    assert "--set tune" in problems(path, "tune")
    assert "title is not a table" in problems(path, "title.x=1")
    assert "tune.lr: must be a number" in problems(path, "tune.lr=fast")


def test_a_recipe_that_trains_needs_data(tmp_path):
    assert "--data FOLDER" in problems(write(tmp_path, GOOD), "data.source=")


def test_what_needs_the_network_is_checked_together_before_anything_starts(tmp_path):
    text = GOOD.replace('only = ["relu*"]', 'only = ["layer5.*", "relu"]\nskip = ["type:gelu"]')
    text = text.replace("recipe_toy:data", "recipe_toy:absent")
    (tmp_path / "out").mkdir()
    with pytest.raises(RecipeError) as caught:
        prepare(read_recipe(write(tmp_path, text), allow=TOY), tmp_path / "out")
    found = "\n".join(caught.value.problems)
    for word in ("--resume", "recipe_toy:absent", "layer5.*", "type:gelu"):
        assert word in found, found
    assert not list((tmp_path / "out").iterdir())


def test_a_network_that_cannot_be_built_and_images_of_another_size_are_problems(tmp_path):
    path = write(tmp_path, GOOD)
    with pytest.raises(RecipeError, match="recipe_toy:nothing"):
        prepare(read_recipe(path, ["model.source=recipe_toy:nothing"], allow=TOY), tmp_path / "out")
    with pytest.raises(RecipeError, match=r"\[3, 12, 12\]"):
        prepare(read_recipe(path, ["model.input=[4, 3, 16, 16]"], allow=TOY), tmp_path / "out")


class Page(HTMLParser):
    """Collects what a page holds, and fails on what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_one_run_goes_from_the_model_to_bundle_and_report(tmp_path):
    recipe = read_recipe(write(tmp_path, GOOD), allow=TOY)
    out = tmp_path / "out"
    report = run_recipe(prepare(recipe, out))
    assert {r.site.name for r in report.conversion.report.replaced} == {"relu", "relu@1"}
    assert set(report.accuracy) == {"original", "at conversion", "after fine-tuning"}
    assert report.accuracy["original"] == report.accuracy["at conversion"]
    written = json.loads((out / "result.json").read_text())
    assert written["accuracy"] == report.accuracy and set(written["files"]) == {"bundle", "result", "report"}
    from recipe_toy import net

    loaded = bundle.load(out / "bundle", net()).eval()
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(loaded(x), report.conversion.model.eval()(x))
    page = Page((out / "report.html").read_text())
    assert page.tags.count("figure") == 3 and "Toy" in page.text and "relu@1" in page.text


def test_an_interrupted_run_goes_on_to_the_same_network(tmp_path):
    class Stop(Exception):
        pass

    def stop(done: int, total: int, text: str) -> None:
        if text.startswith("loss") and done == 4:
            raise Stop

    recipe = read_recipe(write(tmp_path, GOOD), ["tune.checkpoint_every=3"], allow=TOY)
    with pytest.raises(Stop):
        run_recipe(prepare(recipe, tmp_path / "cut"), progress=stop)
    assert not (tmp_path / "cut/bundle").exists()
    run_recipe(prepare(recipe, tmp_path / "cut", resume=True), resume=True)
    run_recipe(prepare(recipe, tmp_path / "whole"))
    one, two = (load_file(tmp_path / name / "bundle/model.safetensors") for name in ("cut", "whole"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_recipe_without_tuning_only_converts(tmp_path):
    text = GOOD[: GOOD.index("[tune]")] + "[export]\nonnx = false\n"
    text = text.replace('[data]\nsource = "recipe_toy:data"\n', "")
    report = run_recipe(prepare(read_recipe(write(tmp_path, text), allow=TOY), tmp_path / "out"))
    assert report.tuning is None and report.accuracy == {} and (tmp_path / "out/report.html").exists()


def test_a_name_that_no_file_can_have_is_a_missing_file(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, GOOD), allow=TOY)
    long = replace(recipe, model=replace(recipe.model, source="a" * 5000))
    assert any("there is no file" in problem for problem in check_files(long))
