"""`actswap bench`: ratios to the first."""

from __future__ import annotations


def test_bench_gives_the_median_ratio(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    code, data, _ = ask("bench", "m.pt", "m.acon_c", "--input", "x.npz", "--runs", "5")
    assert code == 0 and data["ratio"] > 0 and data["ratio_quartiles"][0] <= data["ratio"] <= data["ratio_quartiles"][1]
