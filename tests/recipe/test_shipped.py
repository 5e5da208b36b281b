"""The recipes that come with the project: all are sound, and the ImageNet ones run on a tiny folder of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actswap.recipe import prepare, read_recipe, run_recipe

FOLDER = Path(__file__).parents[2] / "recipes"
IMAGENET = sorted(path.stem for path in FOLDER.glob("*.toml") if 'source = "t' in path.read_text().split("[data]")[0])
IMAGENET = [name for name in IMAGENET if not name.startswith("squeezenet")]
LOCAL = ["fashion_acon_c", "squeezenet_acon_c"]
# Sites each selection finds: blocks x sites, counted by hand from the architectures.
SITES = {
    "resnet50_acon_c": 16,
    "resnet50_meta_acon": 16,
    "resnet50_swish": 49,
    "resnet18_acon_c": 16,
    "resnet18_dy_relu_c": 16,
    "resnet18_pau": 16,
    "resnet18_hp1": 16,
    "resnet18_hp2": 16,
    "shufflenetv2_meta_acon": 35,
    "mobilenetv2_dy_relu_b": 35,
    "efficientnet_b0_silu_to_hardswish": 49,
    "efficientnet_b0_silu_to_relu": 49,
    "vit_tiny_gelu_to_pau": 12,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 2 x 4 images to train on and 2 x 1 to judge."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("torchvision")
    root, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return str(root)


def test_every_recipe_file_is_covered_here():
    assert sorted(path.stem for path in FOLDER.glob("*.toml")) == sorted([*SITES, *LOCAL])
    assert sorted(SITES) == IMAGENET


@pytest.mark.parametrize("name", sorted(SITES))
def test_a_recipe_finds_its_sites(name, photos, tmp_path):
    from actswap.conversion.survey import scan
    from actswap.select import select

    side = 224 if name.startswith("vit") else 32
    given = [f"data.source={photos}", f"model.input=[2, 3, {side}, {side}]"]
    ready = prepare(read_recipe(FOLDER / f"{name}.toml", given), tmp_path / "out")
    wanted = ready.recipe.convert
    sites = select(scan(ready.model, ready.example), list(wanted.only), list(wanted.skip))
    assert len(sites) == SITES[name] and all(site.how != "left" for site in sites)


@pytest.mark.parametrize(
    "name", ["shufflenetv2_meta_acon", "resnet18_pau", "resnet18_dy_relu_c", "efficientnet_b0_silu_to_hardswish"]
)
def test_an_imagenet_recipe_runs_on_a_tiny_folder(name, photos, tmp_path):
    given = [f"data.source={photos}", "model.input=[4, 3, 32, 32]", "calibrate.batch=4", "calibrate.batches=2"]
    given += ["tune.clip=1.0"]  # random weights: the teacher's features are 1e-6 of the student's, the loss is huge
    given += ["tune.epochs=2", "tune.batch=4", "tune.accelerator=cpu", "export.onnx=false"]
    report = run_recipe(prepare(read_recipe(FOLDER / f"{name}.toml", given), tmp_path / "out"))
    assert len(report.conversion.report.replaced) == SITES[name] and report.tuning.steps == 4
    assert report.accuracy["at conversion"] == report.accuracy["original"]
    assert Path(report.files["report"]).stat().st_size > 10_000


@pytest.mark.parametrize("name", [*sorted(SITES), *LOCAL])
def test_a_recipe_reads_without_its_data(name):
    recipe = read_recipe(FOLDER / f"{name}.toml", ready=False)
    assert recipe.title and recipe.tune.problems() == []
