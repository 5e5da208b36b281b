"""The search for activation functions: samplers against a table that holds every answer, and the exhaustive search.

    python benchmarks/search.py toy                        # 196 points, 4 samplers, 3 seeds: about 3 CPU-minutes
    python benchmarks/search.py assign                     # 3 sites, 4 choices, all 64 assignments: about a CPU-minute
    python benchmarks/search.py exhaustive [--seed 1]      # about an hour; goes on where it was stopped
    python benchmarks/search.py ranks                      # what the exhaustive searches found

`toy` trains every function of a small space once (a table in results/), then lets each sampler search that table: a
child is a look-up, so samplers compare at equal numbers of functions without noise. Columns: functions that had to be
trained until the best one, and until one of the best 5 %, was found; the median over the seeds, and each seed.

`assign` pretrains the proxy with ReLU, tunes every assignment once, and shows the rank correlation of the one-pass
scores with the tuned losses, and by how much the best of 16 assignments of each sampler is worse than the best of all.

`exhaustive` is `actswap search benchmarks/search_fashion.toml`. `ranks` shows the ranks of ReLU, Swish and the other
published functions, and the rank correlation between the seeds.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import optuna
import torch
from fashion import held_out
from scipy.stats import spearmanr
from torch import nn

from actswap.activations.fingerprint import fingerprint
from actswap.activations.grammar import parse, text_of
from actswap.errors import ActswapError
from actswap.io.atomic import replacing
from actswap.search.assignment import (
    Assignment,
    open_assignment,
    scan_of,
    tried_assignments,
    work_on_assignment,
)
from actswap.search.children import EXAMPLES, example_of, prepare_children
from actswap.search.file import read_search
from actswap.search.networks import Proxy
from actswap.search.one_pass import one_pass_scores
from actswap.search.page import Searched, write_search_page
from actswap.search.results import Found, ranking, tried
from actswap.search.site_costs import KEEP, site_costs
from actswap.search.space import Space, published
from actswap.search.storage import open_storage
from actswap.search.study import SearchConfig, document_of, open_study, work
from actswap.train import TuneConfig, tune
from actswap.train.data import training_batches

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
FILE = HERE / "search_fashion.toml"
TOY = Space(1, ("x", "-x", "sigmoid(x)", "x^3", "exp(x)", "cosh(x)", "beta"), ("a*b", "a-b", "a+b", "a/b"))
SAMPLERS = ("random", "controller", "tpe", "evolution")
TOP = 0.05  # of the functions


def table(path: Path) -> dict[str, float]:
    """Return the score of every function of the toy space by fingerprint; trains those that are not in the file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    scores = {row["fingerprint"]: row["score"] for row in rows}
    points = TOY.distinct()
    if all(key in scores for key in points):
        return scores
    read = read_search(FILE, ["child.rungs=1", "tune.epochs=1"], allow=["fashion"])
    children = prepare_children(read, held_out())
    with path.open("a") as file:
        for number, (key, point) in enumerate(points.items()):
            if key in scores:
                continue
            text = text_of(TOY.expression(point))
            try:
                scores[key] = list(children(text, number))[-1]
            except ActswapError:
                scores[key] = 0.0
            file.write(json.dumps({"fingerprint": key, "expression": text, "score": scores[key]}) + "\n")
            file.flush()
    return scores


def searched(sampler: str, seed: int, scores: Mapping[str, float], trials: int) -> list[Found]:
    """Search the table."""

    def child(text: str, number: int) -> Iterator[float]:
        yield scores[fingerprint(parse(text))]

    study = open_study(TOY, SearchConfig(sampler, trials, halving=0, seed=seed))
    work(study, TOY, child, trials, rungs=1)
    return tried(study)


def until(found: list[Found], enough: float) -> int | None:
    """Return the number of different functions that were trained until one scored enough."""
    trained = 0
    for one in found:
        trained += one.same_as < 0 and one.error != "it is constant"
        if one.score >= enough:
            return trained
    return None


def toy(seeds: int, trials: int, samplers: list[str]) -> None:
    """Compare the samplers on the table and write what they found."""
    scores = table(RESULTS / "search-toy-table.jsonl")
    every = sorted(scores.values(), reverse=True)
    best, good = every[0], every[max(1, round(TOP * len(every))) - 1]
    lines = [f"{len(every)} functions of {TOY.size} points; best {best:.4f}, best {TOP:.0%} from {good:.4f}; "
             f"{trials} trials, {seeds} seeds"]  # fmt: skip
    pages = []
    for sampler in samplers:
        runs = [searched(sampler, seed, scores, trials) for seed in range(seeds)]
        pages += [Searched(f"{sampler}, seed {k}", {}, run, ()) for k, run in enumerate(runs)]
        for name, enough in (("best", best), (f"top {TOP:.0%}", good)):
            needed = [until(run, enough) for run in runs]
            shown = statistics.median(len(every) if n is None else n for n in needed)
            lines.append(f"{sampler:<11} {name:<7} median {shown:>5}   {needed}")
        tail = [float(np.mean([one.score for one in run[-50:]])) for run in runs]
        lines.append(f"{sampler:<11} mean score of the last 50 trials {[round(t, 3) for t in tail]}")
        print("\n".join(lines[-3:]), flush=True)
    today = datetime.date.today().isoformat()
    (RESULTS / f"search-toy-{today}.txt").write_text("\n".join(lines) + "\n")
    write_search_page(pages, RESULTS / f"search-toy-{today}.html", 10)
    print(lines[0])


class Known(Assignment):
    """A search over assignments whose losses are known."""

    losses: Mapping[tuple[tuple[str, str], ...], float] = {}

    def train(self, targets: Mapping[str, str], number: int) -> tuple[nn.Module, dict[str, float]]:
        """Look the loss up."""
        return self.model, {"loss": type(self).losses[tuple(sorted(targets.items()))]}


def assign(seeds: int, trials: int) -> None:
    """Tune every assignment of a small net; compare the one-pass scores and the samplers with that."""
    data = held_out()
    torch.manual_seed(0)
    net = Proxy(lambda channels: nn.ReLU(), 1, 10)
    tune(net, data, TuneConfig(epochs=3, lr=0.1, accelerator="cpu"))
    net.eval()
    sites = scan_of(net, data)
    choices = (KEEP, "acon_c", "hardswish", "tanh")
    costs = site_costs(sites, choices, "flops")
    short = TuneConfig(epochs=0.5, lr=0.02, accelerator="cpu")
    batch = next(iter(training_batches(data.train, 256, 977, range(1), 0, 1, 0)))
    scores = one_pass_scores(net, sites, choices, example_of(data, EXAMPLES), batch, scanned=sites)
    search = Assignment(net, data, tuple(sites), choices, costs, short, scores=scores, scanned=sites)
    guesses, losses = [], []
    for number, chosen in enumerate(itertools.product(choices, repeat=len(sites))):
        by_site = {site.name: choice for site, choice in zip(sites, chosen, strict=True)}
        targets = {name: choice for name, choice in by_site.items() if choice != KEEP}
        losses.append(search.train(targets, number)[1]["loss"])
        guesses.append(sum(scores[pair] for pair in by_site.items()))
        Known.losses = {**Known.losses, tuple(sorted(targets.items())): losses[-1]}
    best, kept = min(losses), Known.losses[()]
    lines = [f"{len(losses)} assignments: {len(sites)} sites, {', '.join(choices)}; tuned for half an epoch",
             f"validation loss: all kept {kept:.4f}, best {best:.4f}, worst {max(losses):.4f}",
             f"rank correlation of the one-pass scores (their sum over the sites) with the tuned losses: "
             f"{spearmanr(guesses, losses).statistic:.3f}"]  # fmt: skip
    lines += [f"  {min(Known.losses, key=lambda k: Known.losses[k])} is best"]
    for sampler in ("random", "evolution", "tpe"):
        for label, given in (("with", scores), ("without", {})):
            regrets = []
            for seed in range(seeds):
                known = Known(net, data, tuple(sites), choices, costs, short, scores=given, seed=seed)
                study = open_assignment(known, sampler)
                work_on_assignment(study, known, trials)
                regrets.append(min(one.loss for one in tried_assignments(study)) - best)
            shown = ", ".join(f"{r:.4f}" for r in regrets)
            lines.append(f"{sampler:<10} {label:<8} one-pass scores: regret of the best of {trials}: {shown}")
    (RESULTS / f"search-assign-{datetime.date.today().isoformat()}.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def exhaustive(seed: int, trials: int | None, storage: str) -> None:
    """Begin the exhaustive search, or go on with it."""
    read = read_search(FILE, [f"search.seed={seed}", *([f"search.trials={trials}"] if trials else [])], ["fashion"])
    study = open_study(read.space, read.search, open_storage(storage), f"seed{seed}", read.to_dict())

    def show(done: int, total: int, text: str) -> None:
        if done % 100 == 0:
            print(done, text, flush=True)

    work(study, read.space, prepare_children(read, held_out()), read.search.trials, show, read.child.rungs)


def ranks(storage: str) -> None:
    """Show where the published functions stand, and how the seeds agree."""
    opened = open_storage(storage)
    assert opened is not None
    by_seed: list[dict[str, float]] = []
    lines = []
    for name in optuna.get_all_study_names(opened):
        document_of(opened, name)
        ranked = ranking(optuna.load_study(study_name=name, storage=opened))
        prints = [fingerprint(parse(one.expression)) for one in ranked]
        by_seed.append(dict(zip(prints, (one.score for one in ranked), strict=True)))
        lines.append(f"{name}: {len(ranked)} functions, {sum(one.state == 'failed' for one in ranked)} failed")
        lines += [f"  {k + 1:>4} {one.score:.4f} {one.expression}" for k, one in enumerate(ranked[:15])]
        for text in ("relu(x)", *published()):
            key = fingerprint(parse(text))
            where = f"rank {prints.index(key) + 1}" if key in prints else "not in the space of one unit, or not tried"
            lines.append(f"  {text}: {where}")
    for a, b in itertools.pairwise(by_seed):
        both = sorted(a.keys() & b.keys())
        rho = spearmanr([a[k] for k in both], [b[k] for k in both]).statistic
        lines.append(f"rank correlation over {len(both)} functions: {rho:.3f}")
    with replacing(RESULTS / "search-exhaustive.txt") as beside:
        beside.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("toy", "assign", "exhaustive", "ranks"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--storage", default=str(RESULTS / "search-exhaustive.journal"))
    given = parser.parse_args()
    if given.what == "toy":
        toy(given.seeds, given.trials or 400, given.samplers)
    elif given.what == "assign":
        assign(given.seeds, given.trials or 16)
    elif given.what == "exhaustive":
        exhaustive(given.seed, given.trials, given.storage)
    else:
        ranks(given.storage)


if __name__ == "__main__":
    main()
