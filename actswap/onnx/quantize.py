"""`quantize`: an 8-bit file by ONNX Runtime's own quantiser, with the activations as tables.

The quantiser sees each activation as one node: its formula is not taken apart. (Taken apart, the steps of a Padé unit
are rounded to 8 bits one by one, and nothing of the network is left.) `actswap.onnx.tables` then writes each static
activation as a table. Activations with a gate stay in float32 between their quantised values.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from actswap.capture.quiet import quiet
from actswap.errors import ExportError, LoadError, UsageError, first_line
from actswap.io.atomic import refuse_overwrite, replacing
from actswap.onnx.feeds import Feed, inputs_of
from actswap.onnx.functions import DOMAIN
from actswap.onnx.model_file import read_model
from actswap.onnx.parity import OutputParity, compare, ranges, worst
from actswap.onnx.runtime import cpu_session
from actswap.onnx.tables import Table, write_tables
from actswap.sites import Progress

METHODS = ("minmax", "entropy", "percentile")
_LARGEST = 1_800_000_000  # bytes of weights that one message holds


@dataclass(frozen=True)
class QuantizeReport:
    """What was quantised.

    Attributes:
        path: the new file.
        tables: the activations that became tables.
        left: the activations that stay in float32, with reasons.
        parity: per output, how far the 8-bit file is from the given one on the calibration inputs.
        bytes: of the file.
    """

    path: str
    tables: tuple[Table, ...]
    left: Mapping[str, str]
    parity: tuple[OutputParity, ...]
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def quantize(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    calibration: Sequence[Feed],
    *,
    per_channel: bool = False,
    method: str = "minmax",
    tables: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Write an 8-bit file (QDQ) that any runtime with QuantizeLinear runs.

    Args:
        source: a file of `export_onnx` or `convert`, in float32.
        path: the file to write.
        calibration: real inputs by name; they set the scales.
        per_channel: weights have one scale for every output channel.
        method: how ranges become scales: `minmax`, `entropy` or `percentile`, as in onnxruntime.quantization.
        tables: write static activations as tables, integers throughout. Without, they stay in float32. On ONNX
            Runtime's CPU provider that is faster, most of all with the kernels of actswap (`actswap.onnx.session`).
        overwrite: replace an existing file.
        progress: called with (step, steps, text).

    Returns:
        What became a table, what did not, and the difference on the calibration inputs.

    Raises:
        UsageError: the calibration does not fit the file's inputs, or the method is unknown.
        LoadError: the source cannot be read.
        ExportError: the quantiser fails, or the result does not run.
    """
    source, path = Path(source), Path(path)
    refuse_overwrite(path, overwrite=overwrite, source=str(source))
    if method not in METHODS:
        raise UsageError(f"method {method!r}", fix=f"one of {', '.join(METHODS)}")
    given = read_model(source)
    if given.size() > _LARGEST:
        raise LoadError("the file is too large to be quantised", where=str(source), why="it holds more than 1.8 GB")
    model = onnx.load(source)
    _check(model, calibration)
    tell = progress or (lambda step, steps, text: None)
    tell(0, 3, "calibrate and quantise")
    made = _by_the_runtime(model, calibration, per_channel, method)
    tell(1, 3, "tables")
    found, left = write_tables(made) if tables else ([], _all_left(made))
    if not any(node.domain == DOMAIN for node in made.graph.node):
        opsets = [entry for entry in made.opset_import if entry.domain != DOMAIN]
        del made.opset_import[:]
        made.opset_import.extend(opsets)
    tell(2, 3, "check")
    parity = _parity(model, made, calibration)
    with replacing(path) as beside:
        beside.write_bytes(made.SerializeToString())
    tell(3, 3, "done")
    return QuantizeReport(str(path), tuple(found), left, parity, path.stat().st_size)


def _all_left(model: onnx.ModelProto) -> dict[str, str]:
    ours = (node for node in model.graph.node if node.domain == DOMAIN)
    return {node.name or node.output[0]: "no tables were asked for" for node in ours}


def _check(model: onnx.ModelProto, calibration: Sequence[Feed]) -> None:
    names = [value.name for value in inputs_of(model)]
    for feed in calibration:
        if set(feed) != set(names):
            raise UsageError(
                "the calibration does not fit the file",
                why=f"it holds {', '.join(sorted(feed))}; the inputs are {', '.join(names)}",
                fix=f"np.savez('x.npz', {', '.join(f'{name}=array' for name in names)})",
            )
    if not calibration:
        raise UsageError("no calibration inputs", fix="--calibration x.npz")
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise UsageError("the file is quantised already", fix="give the float32 file it was made from")


def _by_the_runtime(
    model: onnx.ModelProto, calibration: Sequence[Feed], per_channel: bool, method: str
) -> onnx.ModelProto:
    from onnxruntime import quantization as ort

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds: Iterator[Feed] = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            feed = next(self.feeds, None)
            return None if feed is None else dict(feed)

    methods = {name: getattr(ort.CalibrationMethod, word) for name, word in _WORDS.items()}
    with tempfile.TemporaryDirectory() as folder, quiet("onnxruntime"), _without_advice():
        # The quantiser changes a model in memory, and writes beside a file: it gets a file of its own.
        onnx.save(model, f"{folder}/float.onnx")
        try:
            ort.quantize_static(
                f"{folder}/float.onnx",
                f"{folder}/quantised.onnx",
                Reader(),
                quant_format=ort.QuantFormat.QDQ,
                activation_type=ort.QuantType.QUInt8,
                weight_type=ort.QuantType.QInt8,
                per_channel=per_channel,
                calibrate_method=methods[method],
            )
        except Exception as error:
            raise ExportError("ONNX Runtime's quantiser fails on this file", why=first_line(error)) from error
        return onnx.load(f"{folder}/quantised.onnx")


_WORDS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the quantiser's advice on the root logger: the file is prepared as it asks for."""
    before = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(before)


def _parity(full: onnx.ModelProto, made: onnx.ModelProto, calibration: Sequence[Feed]) -> tuple[OutputParity, ...]:
    try:
        before, after = cpu_session(full), cpu_session(made)
        want = [before.run(None, dict(feed)) for feed in calibration]
        got = [after.run(None, dict(feed)) for feed in calibration]
    except Exception as error:
        raise ExportError("ONNX Runtime cannot run the quantised file", why=first_line(error)) from error
    names, seen = [value.name for value in full.graph.output], ranges(want)
    return worst(*(compare(names, *pair, seen) for pair in zip(want, got, strict=True)))
