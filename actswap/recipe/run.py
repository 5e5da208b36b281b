"""Running a recipe: model, conversion, fine-tuning, bundle, ONNX file and report, in one folder."""

from __future__ import annotations

import datetime
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actswap.conversion.outcome import Conversion
from actswap.conversion.pipeline import convert
from actswap.conversion.rules import assign, read_rules
from actswap.conversion.survey import scan
from actswap.errors import ActswapError
from actswap.io import base_note, bundle
from actswap.io.atomic import replacing
from actswap.io.loading import build_model, load_model
from actswap.recipe.recipe import RecipeError
from actswap.recipe.tables import Recipe
from actswap.report import gather, write_report
from actswap.sites import Progress
from actswap.train import Data, TuneReport, evaluate, load_data, tune
from actswap.train.data import training_batches


@dataclass(frozen=True)
class Prepared:
    """A recipe whose every part exists: what `run_prepared` starts from.

    Attributes:
        recipe: the recipe.
        model: the original network.
        data: training and validation sets; None if the recipe names none.
        example: example input of the shape in the recipe: real images, if there are any.
        out: folder of the results.
    """

    recipe: Recipe
    model: nn.Module
    data: Data | None
    example: Tensor
    out: Path


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        conversion: the conversion.
        tuning: the fine-tuning; None if the recipe has none.
        accuracy: scores in percent: `original`, `at conversion`, `after fine-tuning`.
        files: what was written, by name.
    """

    conversion: Conversion
    tuning: TuneReport | None
    accuracy: dict[str, float]
    files: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "schema": 1,
            "date": datetime.date.today().isoformat(),
            "conversion": self.conversion.report.to_dict(),
            "tuning": self.tuning.to_dict() if self.tuning is not None else None,
            "accuracy": self.accuracy,
            "files": self.files,
        }


def prepare(
    recipe: Recipe, out: str | Path, *, resume: bool = False, name: str = "recipe", allow: Sequence[str] = ()
) -> Prepared:
    """Load everything a recipe names and check it against the network; writes nothing.

    Args:
        recipe: a checked recipe.
        out: folder of the results; must not exist, unless `resume`.
        resume: go on with an interrupted run in `out`.
        name: of the recipe, for messages.
        allow: packages whose classes a pickle with the model may use.

    Raises:
        RecipeError: with all problems: model, data and selectors.
    """
    problems: list[str] = []
    out = Path(out)
    if out.exists() and not resume:
        problems.append(f"--out {out}: exists; --resume goes on with it, another --out starts anew")
    model = _attempt("model", problems, lambda: _model(recipe, allow))
    data = _attempt("data", problems, lambda: _data(recipe)) if recipe.data.source else None
    example = _attempt("model.input", problems, lambda: _example(recipe, data))
    if model is not None and example is not None:
        sites = _attempt("model.input", problems, lambda: scan(model, example))
        if sites is not None:
            wanted = recipe.convert
            _attempt(
                "convert", problems, lambda: assign(sites, read_rules(wanted.asked), wanted.only or None, wanted.skip)
            )
    if problems or model is None or example is None:
        raise RecipeError(name, problems)
    return Prepared(recipe, model, data, example, out)


def run_recipe(prepared: Prepared, *, resume: bool = False, progress: Progress | None = None) -> RunReport:
    """Convert, fine-tune, save, export and report.

    Under torchrun every process runs this; the first one writes.

    Args:
        prepared: from `prepare`.
        resume: go on with an interrupted fine-tuning.
        progress: called with (done, total, text).

    Raises:
        ActswapError: a step failed; the folder then holds what came before it.
    """
    recipe, data, out = prepared.recipe, prepared.data, prepared.out
    conversion = convert(
        prepared.model,
        recipe.convert.asked,
        prepared.example,
        only=list(recipe.convert.only) or None,
        skip=list(recipe.convert.skip) or None,
        start=recipe.convert.start,
        tolerance=recipe.convert.tolerance,
        calibration=_calibration(recipe, data),
        options=dict(recipe.convert.options) or None,
        seed=recipe.convert.seed,
        progress=progress,
    )
    model = conversion.model
    out.mkdir(parents=True, exist_ok=True)
    accuracy: dict[str, float] = {}
    tuning = None
    if recipe.tune is not None and data is not None:
        config = replace(recipe.tune, out=str(out / "tune"), resume=resume)
        accuracy |= _score("original", prepared.model, data)
        tuning = tune(model, data, config, teacher=prepared.model if config.needs_teacher else None, progress=progress)
        for label, scores in (("at conversion", tuning.before), ("after fine-tuning", tuning.after)):
            if "score" in scores:
                accuracy[label] = 100 * scores["score"]
        model.cpu()
    if int(os.environ.get("RANK", "0")) != 0:
        return RunReport(conversion, tuning, accuracy, {})
    files = _write(prepared, conversion, tuning, accuracy, resume)
    report = RunReport(conversion, tuning, accuracy, files)
    with replacing(out / "result.json") as beside:
        beside.write_text(json.dumps(report.to_dict(), indent=1))
    return report


def _write(
    prepared: Prepared,
    conversion: Conversion,
    tuning: TuneReport | None,
    accuracy: dict[str, float],
    resume: bool,
) -> dict[str, str]:
    recipe, out, model = prepared.recipe, prepared.out, conversion.model.eval()
    note = base_note.Base(model=recipe.model.source)
    if recipe.model.weights:
        note = base_note.base_of(recipe.model.weights, recipe.model.source)
    bundle.save(model, out / "bundle", base=note, report=conversion.report.to_dict(), overwrite=resume)
    files = {"bundle": str(out / "bundle"), "result": str(out / "result.json")}
    if recipe.export.onnx:
        from actswap.onnx import export_onnx

        file = out / "model.onnx"
        export_onnx(model, prepared.example, file, dynamic_batch=recipe.export.dynamic_batch, overwrite=resume)
        files["onnx"] = str(file)
    parity, proof = conversion.report.parity, conversion.report.proof
    facts = gather(
        model,
        conversion.plan,
        prepared.example,
        original=prepared.model.cpu().eval(),
        title=recipe.title,
        parity=parity.to_dict() if parity is not None else None,
        proof=proof.to_dict() if proof is not None else None,
        accuracy=accuracy,
        metrics=tuning.metrics if tuning is not None else (),
        notes=[text for text in (recipe.paper, recipe.notes) if text],
    )
    files["report"] = str(write_report(facts, out / "report.html"))
    return files


def _attempt(where: str, problems: list[str], step: Callable[[], Any]) -> Any:
    """Run one step of the preparation; its error becomes a problem, and the others are still looked at."""
    try:
        return step()
    except ActswapError as error:
        text = "; ".join(part for part in (error.what, error.why, error.fix) if part)
        problems.append(f"{where}: {text}")
        return None


def _model(recipe: Recipe, allow: Sequence[str]) -> nn.Module:
    table = recipe.model
    if table.weights:
        return load_model(table.weights, model=table.source, allow=allow).module
    return build_model(table.source).eval() if ":" in table.source else load_model(table.source, allow=allow).module


def _data(recipe: Recipe) -> Data:
    return load_data(recipe.data.source, recipe.data.size or recipe.model.input[-1])


def _example(recipe: Recipe, data: Data | None) -> Tensor:
    """Return real images of the recipe's input shape, or random numbers if there are none."""
    shape = recipe.model.input
    if data is None:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))
    images: Tensor = next(_images(data, min(shape[0], len(data.train)), 1))  # type: ignore[arg-type]
    if images.shape[1:] != torch.Size(shape[1:]):
        have, want = list(images.shape[1:]), list(shape[1:])
        raise RecipeError("data", [f"its images are {have}, model.input says {want}"])
    return images


def _calibration(recipe: Recipe, data: Data | None) -> list[Tensor] | None:
    if data is None:
        return None
    table = recipe.calibrate
    size = min(table.batch, len(data.train))  # type: ignore[arg-type]
    return list(itertools.islice(_images(data, size, table.batches), table.batches))


def _images(data: Data, batch: int, batches: int) -> Iterator[Tensor]:
    """Yield training images in an order of their own, the same on every run."""
    seed = 977
    return (x for x, _ in training_batches(data.train, batch, seed, range(batches), 0, 1, 0))


def _score(name: str, model: nn.Module, data: Data) -> dict[str, float]:
    if data.valid is None or data.loss is not None:
        return {}
    return {name: 100 * evaluate(model, data.valid)}
