"""The result of a fine-tuning run, and its curve as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from actswap.errors import UsageError
from actswap.io.atomic import replacing


@dataclass(frozen=True)
class TuneReport:
    """What a run did.

    Attributes:
        steps: optimizer steps of the whole run.
        images: training images seen, all processes and repetitions counted.
        epochs: passes over the training set.
        trained: number of parameters that were trained.
        seconds: wall-clock time of this call; an earlier, interrupted part is not in it.
        resumed_from: step that the run went on from, None for a fresh one.
        before: `loss` and `score` on the validation set before the first step, empty without one.
        after: the same for the weights that were kept.
        backoffs: one entry for each time the run diverged and went back: `step`, `to`, `module`, `what`.
        metrics: the lines of metrics.jsonl.
        files: what was written.

    >>> report = TuneReport(10, 160, 1.0, 99, 2.5, None, {"score": 0.8}, {"score": 0.9}, (), (), ())
    >>> report.to_dict()["after"]
    {'score': 0.9}
    """

    steps: int
    images: int
    epochs: float
    trained: int
    seconds: float
    resumed_from: int | None = None
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    backoffs: tuple[Mapping[str, Any], ...] = ()
    metrics: tuple[Mapping[str, Any], ...] = ()
    files: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, without the metrics."""
        data = asdict(self)
        del data["metrics"]
        return {"schema": 1, **data, "files": list(self.files)}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; a half-written last line, left by a kill, is dropped."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def draw_curve(metrics: Iterable[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Draw training loss, learning rate and validation score over the steps.

    The suffix of `path` chooses the picture format.

    Raises:
        UsageError: matplotlib is not installed.

    >>> import tempfile
    >>> rows = [{"kind": "train", "step": k, "loss": 1.0 / k, "lr": 0.1} for k in (1, 2, 3)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_curve(rows, Path(folder) / "curve.svg")
    ...     (Path(folder) / "curve.svg").read_text()[:5]
    '<?xml'
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("a curve needs matplotlib", why=str(error), fix="pip install 'actswap[plot]'") from error
    rows = list(metrics)
    train, valid = ([row for row in rows if row["kind"] == kind] for kind in ("train", "valid"))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [row["step"] for row in train],
        [row["loss"] for row in train],
        color="tab:blue",
        label="training loss",
    )
    if valid:
        axes.plot(
            [r["step"] for r in valid],
            [r["loss"] for r in valid],
            "o--",
            color="tab:blue",
            label="validation loss",
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title(title)
    scored = [row for row in valid if "score" in row]
    if scored:
        right = axes.twinx()
        right.plot([r["step"] for r in scored], [100 * r["score"] for r in scored], "s-", color="tab:orange")
        right.set_ylabel("validation accuracy, %", color="tab:orange")
    axes.legend(loc="upper center")
    beside = path.with_name(f".{path.stem}.writing{path.suffix}")
    figure.savefig(beside, dpi=120)
    beside.replace(path)


def write_results(out: Path, state: Mapping[str, Tensor], metrics: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Write the weights and, if matplotlib is installed, the curve.

    Args:
        out: folder of the run, which has its metrics.jsonl already.
        state: the trained state_dict.
        metrics: the lines of metrics.jsonl.

    Returns:
        The paths of all result files.
    """
    from safetensors.torch import save_file

    with replacing(out / "model.safetensors") as beside:
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}, beside)
    files = ["metrics.jsonl", "model.safetensors"]
    try:
        draw_curve(metrics, out / "curve.png")
        files.append("curve.png")
    except UsageError:
        pass  # matplotlib is optional; the numbers are in metrics.jsonl
    return tuple(str(out / name) for name in files)
