"""`actswap verify`: check whether two models compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actswap.cli.convert import number, proof_table
from actswap.cli.verb import (
    INPUT_OPTION,
    MODEL_OPTIONS,
    TOLERANCE_OPTION,
    Answer,
    ModelOptions,
    inputs_for,
    load,
    say,
    verb,
)

if TYPE_CHECKING:
    from torch import nn

    from actswap.checks.parity import Parity


@verb(
    click.argument("first", metavar="A", type=click.Path()),
    click.argument("second", metavar="B", type=click.Path()),
    MODEL_OPTIONS,
    INPUT_OPTION,
    TOLERANCE_OPTION,
    click.option(
        "--checks",
        type=click.Choice(["all", "outputs"]),
        default="all",
        show_default=True,
        help="Gradients and moved weights too, or outputs alone.",
    ),
)
def command(
    first: str,
    second: str,
    how: ModelOptions,
    specs: tuple[str, ...],
    tolerance: float,
    checks: str,
) -> Answer:
    """Compare model A with B on the same inputs.

    B is a model file, a bundle made from A, or an ONNX file. Exits with 1 if the error, relative to how much the
    outputs vary, is above the tolerance, or another check fails. An ONNX file has outputs only.
    """
    loaded = load(first, how)
    inputs = inputs_for(loaded, specs)
    from actswap.checks.verify import verify
    from actswap.io.bundle import is_bundle

    allowed = tolerance
    if Path(second).suffix == ".onnx":
        parity, allowed = compare_file(loaded.module, second, inputs.args, inputs.kwargs, tolerance)
    else:
        of_first = how.base or (first if is_bundle(second) and not is_bundle(first) else None)
        other = load(second, how, of_first)
        parity = verify(loaded.module, other.module, inputs.args, inputs.kwargs, tolerance, checks)
    passed = parity.within(allowed) and (parity.proof is None or parity.proof.ok)
    data = {"first": first, "second": second, "input": inputs.said, "tolerance": allowed, "passed": passed}
    text = f"{'same' if passed else 'DIFFERENT'}: largest difference {number(parity.max_abs)}, "
    text += f"{number(parity.rel)} of what the outputs vary by (tolerance {number(allowed)}), "
    text += f"{number(parity.rel_to_size)} of their size"
    if parity.note:
        text += f" ({parity.note})"
    if parity.top1_agreement is not None:
        text += f", top-1 agreement {parity.top1_agreement:.0%}"
    if parity.first_divergent_site:
        text += f"\nfirst site that differs: {parity.first_divergent_site}"
    shown = [text] if parity.proof is None else [text, proof_table(parity.proof.to_dict())]
    return Answer({**data, "parity": parity.to_dict()}, shown, 0 if passed else 1)


def compare_file(
    model: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], tolerance: float
) -> tuple[Parity, float]:
    """Compare a model with an ONNX file, whatever the precision of either; the reference is the model in float32.

    Returns:
        The parity, and the largest error of a right file: the tolerance, or for a file in float16 what the network
        itself loses there (see `actswap.checks.precision`).
    """
    import torch

    from actswap.checks.parity import compare
    from actswap.checks.parity import run as run_model
    from actswap.checks.precision import MOST, as_float32, in_dtype, limit, noise_in, raised
    from actswap.checks.signal import more_runs, signals_of

    runner, half = onnx_runner(path)
    full, named = as_float32(args), as_float32(kwargs)
    with raised(model):
        reference = run_model(model, full, named)
        others = more_runs(lambda *call: run_model(model, *call), full, named, reference)
    signals = signals_of([reference, *(outputs for _, outputs in others)])
    if not half:
        return compare(reference, runner(full, named), signals), tolerance
    dtype = torch.float16
    parity = compare(reference, runner(in_dtype(full, dtype), in_dtype(named, dtype)), signals)
    noise = noise_in(model, full, named, dtype, reference, signals)
    say(f"Note: the file computes in float16; the network itself is {noise:.2g} from float32 there")
    return parity, min(limit(tolerance, noise, torch.finfo(dtype).eps), max(MOST, tolerance))


def onnx_runner(path: str) -> tuple[Callable[[tuple[Any, ...], dict[str, Any]], list[Any]], bool]:
    """Open an ONNX file.

    Returns:
        A function from inputs to output tensors in float32, and whether the file is in float16.
    """
    import torch

    from actswap.errors import LoadError
    from actswap.onnx.proof import plain_session, run, takes_half

    if not Path(path).is_file():
        raise LoadError(f"there is no file {path}", fix=f"actswap export MODEL -o {path}")
    session = plain_session(Path(path))
    say(f"Model: {path} in ONNX Runtime")

    def outputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        found = (torch.as_tensor(array) for array in run(session, (args, kwargs)))
        return [tensor.float() if tensor.dtype == torch.float16 else tensor for tensor in found]

    return outputs, takes_half(session)
