"""`convert`: replace the static activations of an ONNX file, on the graph itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.inliner
from onnx import helper

from actswap import activations
from actswap.activations.base import OnnxFunction, Spec, StartContext
from actswap.activations.bounded import split
from actswap.errors import FileError, LoadError, StartError, UsageError, VerificationError
from actswap.fit.histogram import Histogram, HistogramStream
from actswap.io.atomic import replacing
from actswap.onnx.feeds import KEY, Feed, describe, working_feeds
from actswap.onnx.finalize import attach
from actswap.onnx.forms import GraphSite, find_sites
from actswap.onnx.functions import DOMAIN, VERSION, Array
from actswap.onnx.model_file import external_files, split_biases, tensors_of
from actswap.onnx.parity import OutputParity, compare, worst
from actswap.onnx.replacement import lowered_start, nodes_of
from actswap.onnx.runtime import cpu_session, quiet_options
from actswap.plan import tool_version
from actswap.sites import Progress, Start

# Sharpness tried for limit starts, smallest (most trainable) first.
_SHARPNESS = (10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 1e5, 1e6)
_SHARP = ("exact", "limit")
_SHARE = 0.5  # of the tolerance: what the starts may use on the inputs that are seen, the rest is for others
_LOWEST_OPSET = 13
_LARGEST = 1_800_000_000  # bytes of weights that are read into the model
_WEIGHTS_BESIDE = "session.model_external_initializers_file_folder_path"  # an entry of ONNX Runtime's options


@dataclass(frozen=True)
class GraphReport:
    """What was replaced in an ONNX file.

    Attributes:
        path: the new file.
        target: the activation put in.
        beta: sharpness of the limit starts.
        replaced: per site its name, source, start kind and error or bound.
        left: names of other candidates with reasons.
        parity: per output, the difference to the original file.
    """

    path: str
    target: str
    beta: float
    replaced: tuple[tuple[str, str, str, float | None], ...]
    left: Mapping[str, str]
    parity: tuple[OutputParity, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class _Seen:
    """What a run showed of the value before a site."""

    shape: tuple[int, ...]
    histogram: Histogram


class _Attempt(NamedTuple):
    made: onnx.ModelProto
    starts: dict[GraphSite, Start]
    refused: dict[str, str]
    parity: tuple[OutputParity, ...]


def convert(
    source: str | os.PathLike[str],
    target: str,
    path: str | os.PathLike[str],
    *,
    calibration: Sequence[Feed] | None = None,
    tolerance: float = 1e-3,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> GraphReport:
    """Replace every recognised activation of an ONNX file by a trainable one that starts where it is.

    Args:
        source: an ONNX file in float32.
        target: an activation without pooling, e.g. `acon_c`, `pau`, `swish`.
        path: the new file.
        calibration: inputs by name; None makes random ones, if their sizes can be guessed.
        tolerance: relative error of every output that the starts may cause.
        options: options of the target.
        overwrite: replace an existing file.
        progress: called with (step, steps, text).

    Raises:
        LoadError: the source is no ONNX file, or does not run.
        UsageError: the target is unknown, or no site can be replaced.
        VerificationError: the outputs differ by more than the tolerance; no file is written.

    >>> import tempfile, torch, actswap
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), torch.randn(8, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = actswap.export_onnx(model, x, folder + "/model.onnx")
    ...     report = convert(folder + "/model.onnx", "acon_c", folder + "/acon_c.onnx")
    >>> [(source, start) for _, source, start, _ in report.replaced]
    [('relu', 'limit')]
    """
    source, path = Path(source), Path(path)
    if path.exists() and not overwrite:
        raise FileError(f"{path} exists", fix="convert(..., overwrite=True)")
    spec = activations.get(target)
    tell = progress or (lambda step, steps, text: None)
    model = _load(source)
    sites, left = find_sites(model)
    tell(0, 3, f"{len(sites)} activations")
    feeds = list(calibration) if calibration is not None else _random_feeds(model, source.parent)
    seen, references = _calibrate(model, source.parent, sites, feeds)
    names = [value.name for value in model.graph.output]

    def attempt(beta: float, fits: int) -> _Attempt:
        """Replace the sites at this sharpness; of the sites that need a fit, only the `fits` best."""
        starts, refused = _starts(spec, sites, seen, beta, options or {})
        for site in _fitted(starts)[fits:]:
            refused[site.name] = f"its fit (error {starts.pop(site).error:.2g}) would change the network too much"
        if not starts:
            why = next(iter(refused.values()), "the graph has no activation that is recognised")
            raise UsageError(f"nothing to replace by {target}", where=str(source), why=why)
        made = _replaced(model, spec, starts, seen, options or {})
        runs = [
            compare(names, want, _run(made, source.parent, feed)) for want, feed in zip(references, feeds, strict=True)
        ]
        return _Attempt(made, starts, refused, worst(*runs))

    def within(parity: tuple[OutputParity, ...]) -> bool:
        return all(row.relative <= tolerance * _SHARE for row in parity)

    def fine(fits: int) -> bool:
        try:
            return within(attempt(_SHARPNESS[-1], fits).parity)
        except UsageError:  # nothing is left to replace
            return False

    # If the sharpest start misses the tolerance, no start keeps it. Then the sites that fit worst stay as they are.
    fits, most = 0, len(_fitted(_starts(spec, sites, seen, _SHARPNESS[-1], options or {})[0]))
    if fine(most):
        fits = most
    while most - fits > 1:
        middle = (fits + most) // 2
        fits, most = (middle, most) if fine(middle) else (fits, middle)
    for beta in _SHARPNESS:
        tell(1, 3, f"beta {beta:g}")
        made, starts, refused, parity = attempt(beta, fits)
        if within(parity) or all(start.kind != "limit" for start in starts.values()):
            break
    bad = next((row for row in parity if not row.relative <= tolerance), None)
    if bad is not None:
        raise VerificationError(
            f"{target} does not preserve the network within {tolerance:g}",
            where=f"output {bad.name}",
            why=f"relative error {bad.relative:.3g} at beta {beta:g}",
            fix=f"tolerance={bad.relative * 1.1:.2g}, or another target",
        )
    entries = {p.key: p.value for p in made.metadata_props}
    helper.set_model_props(made, {**entries, KEY: describe(feeds)})
    _save(made, path, source.parent)
    tell(3, 3, "done")
    rows = tuple(
        (site.name, str(site.source), start.kind, start.error if start.error is not None else start.bound)
        for site, start in starts.items()
    )
    return GraphReport(str(path), target, beta, rows, left | refused, parity)


def _fitted(starts: Mapping[GraphSite, Start]) -> list[GraphSite]:
    """Return the sites whose start is a fit, the best first."""
    found = [site for site, start in starts.items() if start.kind not in _SHARP]
    return sorted(found, key=lambda site: (starts[site].error or 0.0, site.name))


def _load(source: Path) -> onnx.ModelProto:
    """Read a file; its local functions are put in place of their calls, so that their activations are seen.

    Weights that lie beside a large file stay there: a protobuf of more than 2 GiB can be neither copied nor checked.
    """
    try:
        model = onnx.load(source, load_external_data=False)
        large = sum(part.stat().st_size for part in external_files(model, source.parent)) > _LARGEST
        if not large:
            model = onnx.load(source)
        onnx.checker.check_model(str(source) if large else model)
        ours = [(body.domain, body.name) for body in model.functions if body.domain == DOMAIN]
        if len(ours) < len(model.functions):
            model = onnx.inliner.inline_selected_functions(model, ours, exclude=True)
        split_biases(model)
    except LoadError as error:
        raise LoadError(error.what, where=str(source), why=error.why, fix=error.fix) from None
    except Exception as error:
        raise LoadError("this is not an ONNX file that can be read", where=str(source), why=str(error)) from error
    opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 1)
    if opset < _LOWEST_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _LOWEST_OPSET)
        except Exception as error:
            raise LoadError(f"opset {opset} is too old", where=str(source), why=str(error)) from error
    model.ir_version = max(model.ir_version, 8)  # the first with functions
    return model


def _session(model: onnx.ModelProto, folder: Path) -> Any:
    """Open a model whose weights may lie in the folder."""
    options = quiet_options()
    options.add_session_config_entry(_WEIGHTS_BESIDE, str(folder.absolute()))
    try:
        return cpu_session(model, options)
    except Exception as error:
        raise LoadError("ONNX Runtime cannot open the file", why=str(error).strip()) from error


def _run(model: onnx.ModelProto, folder: Path, feed: Feed) -> list[Array]:
    found: list[Array] = _session(model, folder).run(None, dict(feed))
    return found


def _random_feeds(model: onnx.ModelProto, folder: Path) -> list[Feed]:
    """Make up inputs that the outputs depend on."""
    session = _session(model, folder)
    found, why = working_feeds(model, lambda feed: session.run(None, dict(feed)))
    if not found:
        raise UsageError(
            "no inputs can be made up for this file", why=why, fix="convert(..., calibration=[{'input': array}])"
        )
    return found[:1]


def _calibrate(
    model: onnx.ModelProto, folder: Path, sites: Sequence[GraphSite], feeds: Sequence[Feed]
) -> tuple[dict[str, _Seen], list[list[Array]]]:
    """Run the original with the values before the sites as further outputs."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    count = len(model.graph.output)
    known = {value.name for value in model.graph.output} | {value.name for value in model.graph.input}
    extra = [name for name in dict.fromkeys(site.x for site in sites) if name not in known]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
    session = _session(watched, folder)
    names = [value.name for value in session.get_outputs()]
    streams = {site.x: HistogramStream() for site in sites}
    shapes: dict[str, tuple[int, ...]] = {}
    references = []
    for feed in feeds:
        results = session.run(None, dict(feed))
        references.append(results[:count])
        for name, value in [*zip(names, results, strict=True), *feed.items()]:
            if name in streams:
                streams[name].update(np.asarray(value))
                shapes[name] = value.shape
    return {name: _Seen(shapes[name], stream.finish()) for name, stream in streams.items()}, references


def _channel_dim(model: onnx.ModelProto, site: GraphSite, rank: int) -> int:
    """Return the channel axis: 1 after a convolution and for pictures, else the last."""
    producer = next((node for node in model.graph.node if site.x in node.output), None)
    convolved = producer is not None and producer.op_type in ("Conv", "ConvTranspose", "BatchNormalization")
    return 1 if convolved or rank in (2, 4, 5) else -1


def _starts(
    spec: Spec, sites: Sequence[GraphSite], seen: Mapping[str, _Seen], beta: float, options: Mapping[str, Any]
) -> tuple[dict[GraphSite, Start], dict[str, str]]:
    """Return the start of every site, and the reason of each site without one."""
    starts: dict[GraphSite, Start] = {}
    refused: dict[str, str] = {}
    for site in sites:
        core, shift, _ = split(site.source)
        histogram = seen[site.x].histogram
        context = StartContext(beta=beta, histogram=histogram.shifted(-shift) if shift else histogram, options=options)
        try:
            starts[site] = spec.start(core, context)
        except StartError as error:
            refused[site.name] = error.what + (f": {error.why}" if error.why else "")
    return starts, refused


def _replaced(
    model: onnx.ModelProto,
    spec: Spec,
    starts: Mapping[GraphSite, Start],
    seen: Mapping[str, _Seen],
    options: Mapping[str, Any],
) -> onnx.ModelProto:
    opset = next(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
    made = onnx.ModelProto()
    made.CopyFrom(model)
    gone = {k for site in starts for k in site.nodes}
    at = {site.nodes[-1]: site for site in starts}
    functions: dict[str, OnnxFunction] = {}
    del made.graph.node[:]
    for k, node in enumerate(model.graph.node):
        if k in at:
            site = at[k]
            shape = seen[site.x].shape
            dim = _channel_dim(model, site, len(shape))
            lowered = lowered_start(spec, starts[site], shape, dim, options)
            functions[lowered.function.op] = lowered.function
            made.graph.node.extend(nodes_of(made.graph, site, lowered))
        elif k not in gone:
            made.graph.node.append(node)
    if not any(entry.domain == DOMAIN for entry in made.opset_import):
        made.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    plain = [replace(f, body=f.body.replace("CastLike (yf, x)", "Cast <to = 1> (yf)")) for f in functions.values()]
    attach(made, list(functions.values()) if opset >= 15 else plain, opset)
    props = {p.key: p.value for p in made.metadata_props}
    helper.set_model_props(made, {**props, "actswap.version": tool_version(), "actswap.domain_version": str(VERSION)})
    return made


def _save(model: onnx.ModelProto, path: Path, folder: Path) -> None:
    """Write the file; weights that lie in `folder` are copied beside it, unless it is the same folder."""
    copies: dict[str, str] = {}
    if folder.resolve() != path.parent.resolve():
        parts = external_files(model, folder)
        copies = {str(part.relative_to(folder)): f"{path.name}.{k}.data" for k, part in enumerate(parts)}
    for tensor in tensors_of(model):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value in copies:
                entry.value = copies[entry.value]
    for old, new in copies.items():
        with replacing(path.parent / new) as beside:
            shutil.copyfile(folder / old, beside)
    with replacing(path) as beside:
        beside.write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(beside))
