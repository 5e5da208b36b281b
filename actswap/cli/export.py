"""`actswap export`: an ONNX file that runs anywhere, checked in ONNX Runtime; or an exported program of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actswap.cli.convert import number
from actswap.cli.verb import (
    FORCE_OPTION,
    INPUT_OPTION,
    MODEL_OPTIONS,
    Answer,
    ModelOptions,
    again,
    inputs_for,
    inputs_of,
    load,
    progress,
    say,
    verb,
)
from actswap.errors import ExportError
from actswap.io.atomic import refuse_overwrite

if TYPE_CHECKING:
    from actswap.inputs import Inputs

_TOLERANCE = 1e-4  # of a program: the same formulas in another order

# Those of actswap.onnx.runtimes, which help and completion do not import.
_RUNTIMES = ("onnxruntime", "web", "openvino", "tensorrt", "tract", "ncnn", "mnn", "coreml", "tflite")


def _suited(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    """Make the options of a runtime the defaults of the others."""
    if name is not None:
        from actswap.onnx.runtimes import RUNTIMES

        context.default_map = {**(context.default_map or {}), **RUNTIMES[name].options()}
    return name


@verb(
    click.argument("path", metavar="MODEL", type=click.Path()),
    click.option("-o", "--output", type=click.Path(), metavar="OUT", help="The file; default MODEL.onnx."),
    click.option("--format", "form", type=click.Choice(["onnx", "pt2"]), default="onnx", show_default=True),
    click.option(
        "--for",
        "runtime",
        type=click.Choice(_RUNTIMES),
        is_eager=True,
        callback=_suited,
        help="Choose format, --decompose, --simplify and what is fixed as this runtime needs it.",
    ),
    MODEL_OPTIONS,
    INPUT_OPTION,
    click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Fix the batch at N."),
    click.option("--size", metavar="H,W", help="Fix heights and widths, or lengths, at these."),
    click.option("--dynamic-batch/--fixed-batch", default=True, show_default=True, help="Let the batch size vary."),
    click.option("--dynamic-size/--fixed-size", default=True, show_default=True, help="Let heights and lengths vary."),
    click.option(
        "--patience",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="How long dynamic sizes may be searched for; then they are fixed.",
    ),
    click.option("--opset", type=int, default=18, show_default=True, help="ONNX operator set."),
    click.option("--decompose", is_flag=True, help="Operators of ONNX (or of PyTorch) alone."),
    click.option(
        "--simplify/--no-simplify",
        default=True,
        show_default=True,
        help="Write what has become a plain operator as one; fold scales into the layers around.",
    ),
    click.option("--half", is_flag=True, help="Write float16 weights."),
    click.option(
        "--for-this-machine",
        is_flag=True,
        help="Also write OUT.prepared.onnx: faster, for this ONNX Runtime and processor, needs the library.",
    ),
    FORCE_OPTION,
)
def command(
    path: str,
    output: str | None,
    form: str,
    runtime: str | None,
    how: ModelOptions,
    specs: tuple[str, ...],
    batch: int | None,
    size: str | None,
    dynamic_batch: bool,
    dynamic_size: bool,
    patience: float,
    opset: int,
    decompose: bool,
    simplify: bool,
    half: bool,
    for_this_machine: bool,
    force: bool,
) -> Answer:
    """Write MODEL (a bundle or any model file) as ONNX and compare it with PyTorch in ONNX Runtime.

    --format pt2 writes an exported program of torch instead; with --decompose it runs where actswap is not.
    """
    source = Path(path)
    stem = source.absolute().name if source.is_dir() else source.stem
    out = Path(output) if output else source.parent / f"{stem}.{form}"
    refuse_overwrite(out, overwrite=force, source=(path, *inputs_of(path, how.base)))
    loaded = load(path, how)
    inputs = _resized(inputs_for(loaded, specs), batch, size)
    dynamic_batch, dynamic_size = dynamic_batch and batch is None, dynamic_size and size is None
    if runtime:
        from actswap.onnx.runtimes import RUNTIMES

        say(f"For {runtime}: {RUNTIMES[runtime].why}")
    if form == "pt2":
        onnx_only = {"--half": half, "--for-this-machine": for_this_machine, "--no-simplify": not simplify}
        return _program(loaded.module, inputs, out, decompose, force, [name for name, on in onnx_only.items() if on])
    from actswap.onnx.export import export_onnx

    with progress() as update, _as_typed(again("actswap", "export", path, "-o", str(out), how=how, specs=specs)):
        report = export_onnx(
            loaded.module,
            inputs.args,
            out,
            example_kwargs=inputs.kwargs or None,
            dynamic_batch=dynamic_batch,
            dynamic_size=dynamic_size,
            patience=patience,
            opset=opset,
            decompose=decompose,
            half=half,
            simplify=simplify,
            overwrite=force,
            progress=update,
        )
    data: dict[str, Any] = report.to_dict()
    own = {name: n for name, n in data["operators"].items() if name.startswith("actswap")}
    worst = max((p["relative"] for p in data["parity"]), default=None)
    lines = [
        f"{out}: {data['bytes'] / 1e6:.2f} MB, opset {opset}, {sum(data['operators'].values())} nodes",
        "actswap nodes: " + (", ".join(f"{n} {name}" for name, n in own.items()) or "none"),
        f"ONNX Runtime agrees with PyTorch to {number(worst)} relative on {len(data['checked'])} inputs",
        *_simplified(report.simplified),
        *data["notes"],
    ]
    if for_this_machine:
        lines.append(_prepared(out, force))
    say("Next: " + again("actswap", "verify", path, str(out), how=how, specs=specs))
    return Answer({**data, "input": inputs.said}, lines)


def _resized(inputs: Inputs, batch: int | None, size: str | None) -> Inputs:
    """Repeat or cut the example inputs to a batch and a size."""
    if batch is None and size is None:
        return inputs
    from actswap.errors import UsageError
    from actswap.onnx.capture import resize, with_batch

    words = size.split(",") if size else []
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise UsageError(f"--size {size}", why="sizes are whole numbers with commas between", fix="--size 224,224")
    lengths = [int(word) for word in words]

    def sized(leaf: Any) -> Any:
        first = leaf.dim() - len(lengths) if hasattr(leaf, "dim") else 0
        return resize(leaf, (*leaf.shape[:first], *lengths)) if lengths and first >= 1 else leaf

    call = (tuple(map(sized, inputs.args)), {name: sized(value) for name, value in inputs.kwargs.items()})
    args, kwargs = with_batch(call, batch) if batch is not None else call
    return replace(inputs, args=args, kwargs=kwargs)


def _program(model: Any, inputs: Inputs, out: Path, decompose: bool, force: bool, refused: Sequence[str]) -> Answer:
    """Write an exported program and compare it with the model."""
    from actswap.checks.verify import verify
    from actswap.errors import UsageError, VerificationError
    from actswap.io.loading import load_model
    from actswap.io.save_exported import save_pt2

    if refused:
        raise UsageError(f"{refused[0]} is for ONNX files", fix="leave it out, or --format onnx")
    save_pt2(model, out, inputs.args, inputs.kwargs, decompose=decompose, overwrite=force)
    parity = verify(model, load_model(out).module, inputs.args, inputs.kwargs, checks="outputs")
    if not parity.within(_TOLERANCE):
        out.unlink()
        raise VerificationError("the exported program does not agree with the model", why=f"by {parity.rel:.3g}")
    needs = "nothing but torch" if decompose else "`import actswap` before torch.export.load"
    lines = [f"{out}: needs {needs}", f"agrees with the model to {number(parity.rel)} of what the outputs vary by"]
    return Answer({"output": str(out), "decomposed": decompose, "parity": parity.to_dict()}, lines)


@contextmanager
def _as_typed(command: str) -> Iterator[None]:
    """Name the command that was typed where an error says how it should have been."""
    try:
        yield
    except ExportError as error:
        fix = error.fix.replace("actswap export ...", command)
        raise ExportError(error.what, where=error.where, why=error.why, fix=fix) from error


def _simplified(done: Mapping[str, str]) -> list[str]:
    """What was simplified, as one line per kind."""
    sites: dict[str, list[str]] = {}
    for site, what in done.items():
        sites.setdefault(what, []).append(site)
    return [f"simplified, {what}: {', '.join(names)}" for what, names in sites.items()]


def _prepared(out: Path, force: bool) -> str:
    """Write the file for this machine beside the portable one."""
    from actswap.onnx.library import library_path
    from actswap.onnx.prepare import prepare_file

    target = out.with_suffix(".prepared.onnx")
    refuse_overwrite(target, overwrite=force, source=str(out))
    found = prepare_file(out, target)
    return (
        f"{target}: {found.blocked} of {found.activations} activations in the blocked layout; "
        f"register_custom_ops_library({str(library_path())!r}) before loading it"
    )
