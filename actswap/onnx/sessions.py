"""`session`: an exported file with the native kernels, as fast as this machine allows.

Three ways, tried in this order: `prepared` (activations stay in the runtime's blocked layout), `native` (the
file as it is, with the kernels), `portable` (without the library, by the function bodies). All compute the
same.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from actswap.errors import ActswapError, LoadError, first_line
from actswap.onnx import cache
from actswap.onnx.functions import DOMAIN, has_kernel
from actswap.onnx.library import register
from actswap.onnx.machine import machine_key, suits_this_machine
from actswap.onnx.model_file import ModelFile, nodes_of, read_model
from actswap.onnx.prepare import KEY, open_prepared, prepare
from actswap.onnx.runtime import CPU, quiet_options

_log = logging.getLogger("actswap.onnx")
# A protobuf of more cannot be handed to the runtime from memory.
_LARGEST = 1_800_000_000


def session(
    path: str | os.PathLike[str] | bytes | onnx.ModelProto,
    sess_options: Any = None,
    providers: Sequence[Any] | None = None,
    *,
    cache_folder: str | os.PathLike[str] | None = None,
    prepared: bool = True,
) -> Any:
    """Open an ONNX file with the kernels of the project.

    Args:
        path: a file of `export_onnx`, or such a model in memory, as bytes or as a ModelProto; any other ONNX model
            works too.
        sess_options: `onnxruntime.SessionOptions`; the library is registered with them.
        providers: as for `onnxruntime.InferenceSession`; None is the CPU.
        cache_folder: where prepared models are kept; None is `$ACTSWAP_CACHE` or the user's cache folder.
        prepared: False leaves out the preparation.

    Returns:
        An `onnxruntime.InferenceSession` with two attributes more: `actswap_way` (`prepared`, `native`, `portable`)
        and `actswap_notes`, why not a faster one.

    Raises:
        LoadError: the file is not there, is damaged, lacks its external data, or was prepared for another
            machine.

    >>> import tempfile, numpy, torch, actswap
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 4), actswap.nn.Swish()).eval(), torch.ones(1, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = actswap.export_onnx(model, x, folder + "/model.onnx")
    ...     opened = actswap.onnx.session(folder + "/model.onnx", cache_folder=folder)
    >>> (y,) = opened.run(None, {opened.get_inputs()[0].name: x.numpy()})
    >>> numpy.allclose(y, model(x).detach().numpy(), atol=1e-6)
    True
    """
    import onnxruntime

    if not isinstance(path, bytes | onnx.ModelProto) and Path(path).suffix == ".ort":
        return _open_ort_format(Path(path), sess_options, providers)
    given = read_model(path)
    model = given.model
    options = sess_options
    if options is None:
        options = quiet_options()
    notes: list[str] = []
    chosen = list(providers) if providers is not None else [CPU]
    ours = {node.op_type for node in nodes_of(model.graph) if node.domain == DOMAIN}
    unknown = sorted(name for name in ours if not has_kernel(name))
    if unknown:
        names = ", ".join(map(str, unknown))
        notes.append(f"no kernel is called {names}: the bodies in the file run (was a prefix added?)")
    way = "portable"
    if len(ours) > len(unknown):
        missing = register(options)
        way = "portable" if missing else "native"
        if missing:
            notes.append(missing)
    made_for = next((p.value for p in model.metadata_props if p.key == KEY), None)
    if made_for is not None:
        found = _open_for_this_machine(given, made_for, options, way)
    elif way == "native" and prepared and chosen == [CPU] and not unknown:
        folder = Path(cache_folder) if cache_folder is not None else cache.cache_folder()
        found = _prepared(given, options, folder, notes)
    else:
        found = None
    if found is not None:
        way = "prepared"
    else:
        try:
            found = onnxruntime.InferenceSession(given.opened, options, providers=chosen)
        except Exception as error:
            raise LoadError("ONNX Runtime cannot open the file", where=given.name, why=first_line(error)) from error
    found.actswap_way, found.actswap_notes = way, tuple(notes)
    _log.info("%s: %s%s", given.name, way, "".join(f"; {note}" for note in notes))
    return found


def _open_ort_format(path: Path, sess_options: Any, providers: Sequence[Any] | None) -> Any:
    """Open a file in ONNX Runtime's own format, which cannot be looked into: with the kernels if it takes them."""
    import onnxruntime

    options = sess_options if sess_options is not None else quiet_options()
    missing = register(options)
    try:
        found = onnxruntime.InferenceSession(str(path), options, providers=list(providers or [CPU]))
    except Exception as error:
        raise LoadError("ONNX Runtime cannot open the file", where=str(path), why=first_line(error)) from error
    found.actswap_way = "portable" if missing else "native"
    found.actswap_notes = (*([missing] if missing else []), "a file in ORT format is opened as it is")
    return found


def _open_for_this_machine(given: ModelFile, made_for: str, options: Any, way: str) -> Any:
    if way != "native" or not suits_this_machine(made_for):
        raise LoadError(
            "the file was prepared for another machine",
            where=given.name,
            why=f"for {made_for}; this is {machine_key()}",
            fix="use the portable file, or export --for-this-machine here",
        )
    return open_prepared(given.opened, options)


def _prepared(given: ModelFile, options: Any, folder: Path | None, notes: list[str]) -> Any:
    """Return the prepared session, None with a note if the file cannot be prepared."""
    if given.size() > _LARGEST:
        notes.append("too large to prepare")
        return None
    key = hashlib.sha256(machine_key().encode() + given.digest()).hexdigest()[:40]
    data = cache.read(key, folder) if folder is not None else None
    try:
        if data is not None:
            return open_prepared(data, options)
    except Exception as error:  # a stale entry is made anew
        notes.append(f"cached model refused: {first_line(error)}")
    try:
        made = prepare(given.model, given.folder)
        data = made.model.SerializeToString()
        found = open_prepared(data, options)
    except ActswapError as error:
        notes.append(f"not prepared: {error.what}" + (f" ({error.why})" if error.why else ""))
        return None
    except Exception as error:
        notes.append(f"not prepared: {first_line(error)}")
        return None
    if folder is None:
        notes.append("prepared anew each time: there is no home folder; name one in ACTSWAP_CACHE")
        return found
    trouble = cache.write(key, data, folder)
    if trouble:
        notes.append(trouble)
    return found
