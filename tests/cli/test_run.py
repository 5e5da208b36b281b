"""`actswap run`: everything is checked before anything starts; --dry-run writes nothing."""

from recipe_texts import GOOD, write


def test_a_dry_run_checks_everything_and_writes_nothing(tmp_path, ask, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, GOOD)
    code, data, _ = ask("run", "recipe.toml", "--allow", "recipe_toy", "--dry-run")
    assert code == 0 and data["dry_run"] and data["recipe"]["title"] == "Toy"
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.toml"]


def test_a_run_gives_the_accuracy_of_every_step(tmp_path, ask, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, GOOD)
    code, data, _ = ask("run", "recipe.toml", "--allow", "recipe_toy", "--set", "tune.epochs=1", "-o", "out")
    assert code == 0 and data["accuracy"].keys() == {"original", "at conversion", "after fine-tuning"}
    assert (tmp_path / "out" / "report.html").exists()
    code, data, _ = ask("run", "recipe.toml", "--allow", "recipe_toy", "-o", "out")
    assert code == 2 and "exists" in data["error"]["why"]


def test_all_problems_are_listed_at_once(tmp_path, ask):
    path = write(tmp_path, GOOD.replace('target = "acon_c"', 'target = "acon_z"').replace("epochs = 2", "epochs = 0"))
    code, data, _ = ask("run", str(path), "--allow", "recipe_toy")
    assert code == 2 and "acon_z" in data["error"]["why"] and "epochs" in data["error"]["why"]
