"""`actswap report`: one HTML file with the figures that the verb gives as JSON."""


def test_a_report_holds_the_figures_and_the_scores(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    arguments = ("report", "m.acon_c", "--input", "x.npz", "--title", "My net")
    code, data, _ = ask(*arguments, "--accuracy", "original=91.5")
    page = (folder / "m.acon_c.html").read_text()
    assert code == 0 and data["output"] == "m.acon_c.html" and data["accuracy"] == {"original": 91.5}
    assert "My net" in page and "91.5" in page and "<script src" not in page
    code, data, _ = ask(*arguments)
    assert code == 2 and "exists" in data["error"]["what"]
    assert ask(*arguments, "--force")[0] == 0


def test_a_score_that_is_no_number_is_refused(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    code, data, _ = ask("report", "m.acon_c", "--input", "x.npz", "--accuracy", "original")
    assert code == 2 and "original" in data["error"]["what"]
    assert not (folder / "m.acon_c.html").exists()
