"""Do networks of other toolkits go all the way: loaded, converted, trained in the toolkit's own trainer, exported?

    python benchmarks/toolkits.py                 # all, one process each; writes results/toolkits-DATE.md
    python benchmarks/toolkits.py "PyG" --json    # one, as JSON

Everything is built small from the toolkits' configurations; nothing is downloaded. What they need:
`pip install --no-deps -r benchmarks/toolkits-requirements.txt`. Columns: `load` of the file that the toolkit writes
(same outputs, bit for bit), number of sites, `convert` with its error, `verify`, `train` in the toolkit's own trainer
(or the loop of docs/toolkits.md, marked *), `save` and `load` of the bundle on another copy, revert, and the export
with ONNX Runtime's error relative to what the output varies by. A cell that failed says why.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accuracy import machine
from toolkit_nets import TOOLKITS, Toolkit, floats
from torch import nn

import actswap
from actswap.errors import first_line
from actswap.io.loading import load_model

HERE = Path(__file__).parent
STEPS = ("load", "scan", "convert", "verify", "train", "save", "reload", "revert", "export")


class Row:
    """One network, taken through the steps; a step that fails is written down, and what needs it is left out."""

    def __init__(self, toolkit: Toolkit, folder: Path) -> None:
        self.kit, self.folder = toolkit, folder
        self.cells: dict[str, str] = {}
        self.base: nn.Module | None = None
        self.model: nn.Module | None = None
        args, kwargs = toolkit.call()
        self.args, self.kwargs = args, {**kwargs, **toolkit.export}

    def run(self) -> dict[str, str]:
        """Return a text for each step."""
        for step in STEPS:
            act: Callable[[], str] = getattr(self, step)
            try:
                self.cells[step] = act()
            except Exception as error:
                text = str(error).splitlines()
                self.cells[step] = f"FAILED {first_line(error, 160)} {' '.join(t.strip() for t in text[1:3])[:160]}"
                if step in ("load", "convert"):
                    break
        return self.cells

    def outputs(self, model: nn.Module) -> list[torch.Tensor]:
        """Run a model; the same random numbers every time, for a network that draws some in eval mode."""
        torch.manual_seed(0)
        with torch.no_grad():
            return floats(model.eval()(*self._typed(self.args), **self._typed(self.kwargs)))

    def _typed(self, values: Any) -> Any:
        if self.kit.dtype is torch.float32:
            return values
        return torch.utils._pytree.tree_map(
            lambda v: v.to(self.kit.dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v, values
        )

    def load(self) -> str:
        """Write as the toolkit does, and load."""
        original = self.kit.build()
        path = self.kit.write(original, self.folder)
        original = original.to(self.kit.dtype)
        self.base = load_model(path, **self.kit.options).module
        pairs = zip(self.outputs(original), self.outputs(self.base), strict=True)
        return "same bits" if all(torch.equal(a, b) for a, b in pairs) else "FAILED other outputs"

    def scan(self) -> str:
        """Count the sites."""
        sites = actswap.scan(self.base, self._typed(self.args), self._typed(self.kwargs))
        return f"{len(sites)} sites, {sum(s.how == 'left' for s in sites)} left"

    def convert(self) -> str:
        """Replace the activations."""
        result = actswap.convert(self.base, self.kit.target, self._typed(self.args), self._typed(self.kwargs))
        self.model = result.model
        assert result.report.parity is not None
        return f"{len(result.report.replaced)} replaced, {result.report.parity.rel:.1e}"

    def verify(self) -> str:
        """Compare with the original."""
        found = actswap.verify(self.base, self.model, self._typed(self.args), self._typed(self.kwargs))
        failed = [] if found.proof is None else [check.name for check in found.proof.failed]
        return f"{found.rel:.1e}" + (f" FAILED {failed}" if failed else "")

    def train(self) -> str:
        """Train a copy in the toolkit's trainer."""
        import copy

        trained = copy.deepcopy(self.model)
        before = {n: p.detach().clone().float() for n, p in actswap.train.activation_parameters(trained).items()}
        out = self.folder / "trained"
        self.kit.train(trained, self.folder, out)
        after = actswap.load(out, self.kit.build())
        moved = sum(
            not torch.equal(before[n], p.float()) for n, p in actswap.train.activation_parameters(after).items()
        )
        own = "*" if "plain_loop" in self.kit.train.__qualname__ else ""
        return f"{moved} of {len(before)} moved{own}" if moved else f"FAILED 0 of {len(before)} moved"

    def save(self) -> str:
        """Write the bundle."""
        self.bundle = actswap.save(self.model, self.folder / "bundle")
        return "ok"

    def reload(self) -> str:
        """Load the bundle onto another copy of the network."""
        loaded = actswap.load(self.bundle, self.kit.build().to(self.kit.dtype))
        pairs = zip(self.outputs(self.model), self.outputs(loaded), strict=True)
        return "same bits" if all(torch.equal(a, b) for a, b in pairs) else "FAILED other outputs"

    def revert(self) -> str:
        """Take the conversion back."""
        pairs = zip(self.outputs(actswap.revert(self.model)), self.outputs(self.base), strict=True)
        return "same bits" if all(torch.equal(a, b) for a, b in pairs) else "FAILED other outputs"

    def export(self) -> str:
        """Write ONNX, in float32 from half."""
        model = self.model.float()
        report = actswap.export_onnx(model, self.args, self.folder / "model.onnx", example_kwargs=self.kwargs)
        worst = max(output.relative for output in report.parity)
        fixed = "fixed sizes" if any(note.startswith("sizes are fixed") for note in report.notes) else "dynamic sizes"
        return f"{worst:.1e}, {fixed}"


def one(name: str) -> dict[str, Any]:
    """Take one network through all steps."""
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        cells = Row(TOOLKITS[name], Path(folder)).run()
    return {"name": name, "cells": cells, "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    """Run the networks asked for, each in a process of its own, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.json:
        print(json.dumps(one(asked.names[0])))
        return
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    rows = []
    for name in asked.names or TOOLKITS:
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true"}
        done = subprocess.run(
            [sys.executable, __file__, name, "--json"], capture_output=True, text=True, env=environment
        )
        last = (done.stderr.strip().splitlines() or [""])[-1]
        rows.append(
            json.loads(done.stdout) if done.returncode == 0 else {"name": name, "cells": {"load": f"FAILED {last}"}}
        )
        print(json.dumps(rows[-1]), flush=True)
    lines = [f"# Toolkits, {datetime.date.today()}", "", machine(), "", "Columns: see `benchmarks/toolkits.py`.", ""]
    lines += [f"| toolkit | {' | '.join(STEPS)} |", "|" + " --- |" * (len(STEPS) + 1)]
    lines += [
        f"| {r['name']} | " + " | ".join(r["cells"].get(s, "-").replace("|", "/") for s in STEPS) + " |" for r in rows
    ]
    if not asked.names:
        (HERE / f"results/toolkits-{datetime.date.today()}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
