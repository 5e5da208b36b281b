"""`actswap show`: a bundle or a recipe, without loading a model."""

from pathlib import Path

import pytest

from actswap.io.loading import load_model

RECIPES = Path(__file__).parents[2] / "recipes"


def test_a_bundle_is_shown_though_its_base_is_gone(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    (folder / "m.pt").unlink()
    code, data, _ = ask("show", "m.acon_c")
    assert code == 0 and data["base"]["file"] == "m.pt" and data["plan"]["target"] == "acon_c"
    assert len(data["plan"]["choices"]) == 2
    with pytest.raises(Exception, match=r"m\.pt"):
        load_model(folder / "m.acon_c")


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_is_shown(recipe, ask):
    code, data, _ = ask("show", str(recipe))
    assert code == 0 and data["recipe"]["title"] and data["recipe"]["convert"]
