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
from actswap.onnx.functions import DOMAIN, VERSION
from actswap.onnx.library import register
from actswap.onnx.machine import machine_key
from actswap.onnx.prepare import KEY, open_prepared, prepare
from actswap.onnx.runtime import CPU, quiet_options

_log = logging.getLogger("actswap.onnx")
# A protobuf of more cannot be handed to the runtime from memory.
_LARGEST = 1_800_000_000


def session(
    path: str | os.PathLike[str],
    sess_options: Any = None,
    providers: Sequence[Any] | None = None,
    *,
    cache_folder: str | os.PathLike[str] | None = None,
    prepared: bool = True,
) -> Any:
    """Open an ONNX file with the kernels of the project.

    Args:
        path: a file of `export_onnx`; any other ONNX file works too.
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
    """
    import onnxruntime

    path = Path(path)
    model = _read(path)
    options = sess_options
    if options is None:
        options = quiet_options()
    notes: list[str] = []
    chosen = list(providers) if providers is not None else [CPU]
    uses = any(node.domain == DOMAIN for node in model.graph.node)
    way = "portable"
    if uses:
        missing = register(options)
        way = "portable" if missing else "native"
        if missing:
            notes.append(missing)
    made_for = next((p.value for p in model.metadata_props if p.key == KEY), None)
    if made_for is not None:
        found = _open_for_this_machine(path, made_for, options, way)
    elif way == "native" and prepared and chosen == [CPU]:
        folder = Path(cache_folder) if cache_folder is not None else cache.cache_folder()
        found = _prepared(path, model, options, folder, notes)
    else:
        found = None
    if found is not None:
        way = "prepared"
    else:
        try:
            found = onnxruntime.InferenceSession(str(path), options, providers=chosen)
        except Exception as error:
            raise LoadError("ONNX Runtime cannot open the file", where=str(path), why=str(error).strip()) from error
    found.actswap_way, found.actswap_notes = way, tuple(notes)
    _log.info("%s: %s%s", path.name, way, "".join(f"; {note}" for note in notes))
    return found


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise LoadError(f"there is no file {path}")
    try:
        model = onnx.load(path, load_external_data=False)
        if not model.graph.output:
            raise ValueError("it holds no graph")
    except Exception as error:
        raise LoadError("this is not an ONNX file", where=str(path), why=str(error).strip()) from error
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and not (path.parent / entry.value).is_file():
                raise LoadError(
                    "the file's weights are missing",
                    where=str(path),
                    why=f"{entry.value} should lie beside it",
                    fix="copy both files, or export again",
                )
    newer = next((e.version for e in model.opset_import if e.domain == DOMAIN and e.version > VERSION), None)
    if newer is not None:
        raise LoadError(
            f"the file uses version {newer} of domain {DOMAIN}",
            where=str(path),
            why=f"this actswap knows version {VERSION}; a plain onnxruntime.InferenceSession runs it by its bodies",
            fix="install a newer actswap",
        )
    return model


def _open_for_this_machine(path: Path, made_for: str, options: Any, way: str) -> Any:
    if way != "native" or made_for != machine_key():
        raise LoadError(
            "the file was prepared for another machine",
            where=str(path),
            why=f"for {made_for}; this is {machine_key()}",
            fix="use the portable file, or export --for-this-machine here",
        )
    return open_prepared(path.read_bytes(), options)


def _prepared(path: Path, model: onnx.ModelProto, options: Any, folder: Path, notes: list[str]) -> Any:
    """The prepared session, None with a note where the file cannot be prepared."""
    if sum(part.stat().st_size for part in _files(path, model)) > _LARGEST:
        notes.append("too large to prepare")
        return None
    key = _key(path, model)
    data = cache.read(key, folder)
    try:
        if data is not None:
            return open_prepared(data, options)
    except Exception as error:  # a stale entry is made anew
        notes.append(f"cached model refused: {first_line(error)}")
    try:
        made = prepare(model, str(path.parent))
        data = made.model.SerializeToString()
        found = open_prepared(data, options)
    except ActswapError as error:
        notes.append(f"not prepared: {error.what}" + (f" ({error.why})" if error.why else ""))
        return None
    except Exception as error:
        notes.append(f"not prepared: {first_line(error)}")
        return None
    trouble = cache.write(key, data, folder)
    if trouble:
        notes.append(trouble)
    return found


def _files(path: Path, model: onnx.ModelProto) -> list[Path]:
    places = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    return [path, *(path.parent / place for place in sorted(places))]


def _key(path: Path, model: onnx.ModelProto) -> str:
    digest = hashlib.sha256(machine_key().encode())
    for part in _files(path, model):
        with part.open("rb") as file:
            digest.update(
                hashlib.file_digest(file, "sha256").digest() if hasattr(hashlib, "file_digest") else file.read()
            )
    return digest.hexdigest()[:40]
