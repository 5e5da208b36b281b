"""Tables and pictures from the finished runs of accuracy.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

Row = dict[str, Any]
TITLES = {"finetune": "(a) converted and fine-tuned", "scratch": "(b) from scratch"}


def main(rows: Sequence[Row], flops: Mapping[str, int | None], folder: Path) -> None:
    """Write accuracy.md and accuracy.png beside the runs, and print the tables."""
    order = list(flops)
    text = ["# Accuracy on Fashion-MNIST", "", *_base(rows)]
    groups = sorted({(row["part"], row["images"]) for row in rows if row["part"] in TITLES})
    for part, images in groups:
        chosen = [row for row in rows if (row["part"], row["images"]) == (part, images)]
        if len({row["variant"] for row in chosen}) > 1:
            text += ["", *table(chosen, flops)]
            draw(chosen, order, folder / f"accuracy_{part}.png", TITLES[part])
    (folder / "accuracy.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


def _base(rows: Sequence[Row]) -> list[str]:
    for row in rows:
        if row["part"] == "base":
            return [
                f"Base: 77,754-parameter ReLU ResNet (16-32-64), {row['epochs']:.1f} epochs at lr {row['lr']}: "
                f"{100 * row['after']:.2f} % test, {row['cpu_s']} CPU s ({row['date']}, {row['machine']}). "
                "Made by `python benchmarks/accuracy.py base`; all figures below by `accuracy.py finetune`, "
                "`accuracy.py scratch` and `accuracy.py table` from `accuracy.jsonl`, one line per run."
            ]
    return []


def table(rows: Sequence[Row], flops: Mapping[str, int | None]) -> list[str]:
    """Return one part as Markdown: per variant the seeds, mean, deviation, and the paired difference to ReLU."""
    first = rows[0]
    lines = [
        f"## {TITLES[first['part']]}: {first['images']:,} training images per run, lr {first['lr']}",
        "",
        "| variant | start | at start, % | output change | after, mean ± std % | seeds | minus ReLU, paired, "
        "95 % interval | train loss | parameters | MFLOPs | CPU s / ReLU's |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    reference = {row["seed"]: row for row in rows if row["variant"] == "relu"}
    for name, operations in flops.items():
        mine = {row["seed"]: row for row in rows if row["variant"] == name}
        if not mine:
            continue
        after = [100 * row["after"] for row in mine.values()]
        seeds = " ".join(f"{value:.2f}" for _, value in sorted(zip(mine, after, strict=True)))
        common = sorted(mine.keys() & reference.keys())
        differences = [100 * (mine[seed]["after"] - reference[seed]["after"]) for seed in common]
        times = [mine[seed]["cpu_s"] / reference[seed]["cpu_s"] for seed in common]
        eager = sum(row.get("operators") == "eager" for row in mine.values())
        cells = [
            name,
            next(iter(mine.values()))["starts"] or "-",
            f"{statistics.mean(100 * row['before'] for row in mine.values()):.2f}",
            f"{max(row['rel'] for row in mine.values()):.1e}",
            f"**{statistics.mean(after):.2f}** ± {_deviation(after):.2f}",
            f"{len(after)}: {seeds}",
            interval(differences) if name != "relu" else "-",
            f"{statistics.mean(row['train_loss'] for row in mine.values()):.4f}",
            f"{next(iter(mine.values()))['parameters']:,}",
            f"{operations / 1e6:.2f}" if operations else "-",
            (f"{statistics.median(times):.2f}" if times else "-") + (" (eager)" if eager and name != "relu" else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    dates = sorted({row["date"] for row in rows})
    return [*lines, "", f"{dates[0]} to {dates[-1]}, {first['machine']}."]


def interval(differences: Sequence[float]) -> str:
    """Return mean and 95 % confidence interval of paired differences (Student's t)."""
    if len(differences) < 2:
        return "-"
    mean = statistics.mean(differences)
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * _deviation(differences) / len(differences) ** 0.5
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def draw(rows: Sequence[Row], order: Sequence[str], path: Path, title: str) -> None:
    """Draw every run as a point and the mean as a line; right, the same without what lies far below ReLU."""
    from matplotlib.figure import Figure

    names = [name for name in order if any(row["variant"] == name for row in rows)]
    values = {name: [100 * row["after"] for row in rows if row["variant"] == name] for name in names}
    level = statistics.mean(values.get("relu", next(iter(values.values()))))
    near = [name for name in names if statistics.mean(values[name]) > level - 2]
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, shown in zip(figure.subplots(1, 2), (names, near), strict=True):
        for place, name in enumerate(shown):
            mean = statistics.mean(values[name])
            axes.plot([place] * len(values[name]), values[name], "o", color="tab:blue", alpha=0.6)
            axes.plot([place - 0.25, place + 0.25], [mean, mean], color="tab:orange", linewidth=2)
        axes.axhline(level, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xticks(range(len(shown)), [name.replace(" ", "\n") for name in shown])
        axes.set_ylabel("test accuracy, %")
    figure.suptitle(f"Fashion-MNIST, {title}")
    figure.savefig(path, dpi=100)
