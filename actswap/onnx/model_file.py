"""An ONNX model as it is given: a file, with its external data, or a model in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto

from actswap.errors import LoadError, first_line
from actswap.onnx.functions import DOMAIN, VERSION

_PROTOBUF_LIMIT = 1 << 31  # bytes of one message


@dataclass(frozen=True)
class ModelFile:
    """A model that was read, without its external data.

    Attributes:
        model: the graph.
        path: its file, None if it was given in memory.
        data: its bytes, None if it is in a file.
    """

    model: onnx.ModelProto
    path: Path | None = None
    data: bytes | None = None

    @property
    def name(self) -> str:
        """What errors call it."""
        return "a model in memory" if self.path is None else str(self.path)

    @property
    def folder(self) -> str:
        """The folder of its external data, "" if there can be none."""
        return "" if self.path is None else str(self.path.parent)

    @property
    def opened(self) -> str | bytes:
        """What an `InferenceSession` opens."""
        return self.data if self.data is not None else str(self.path)

    def parts(self) -> list[Path]:
        """Return its files: the model's own, then those of its external data."""
        if self.path is None:
            return []
        return [self.path, *external_files(self.model, self.path.parent)]

    def size(self) -> int:
        """Return the bytes of all its parts."""
        return len(self.data or b"") + sum(part.stat().st_size for part in self.parts())

    def digest(self) -> bytes:
        """Return the SHA-256 of all its parts."""
        digest = hashlib.sha256(self.data or b"")
        for part in self.parts():
            inner = hashlib.sha256()
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    inner.update(block)
            digest.update(inner.digest())
        return digest.digest()


def read_model(given: str | os.PathLike[str] | bytes | onnx.ModelProto) -> ModelFile:
    """Read a model, without its external data.

    Args:
        given: a file, or a model in memory: its bytes, or a ModelProto.

    Returns:
        The model. A ModelProto is not changed and not kept.

    Raises:
        LoadError: there is no such file, it is damaged, it lacks its external data, or it needs a newer actswap.
    """
    if isinstance(given, onnx.ModelProto):
        given = given.SerializeToString()
    found = _from_bytes(given) if isinstance(given, bytes) else _from_file(Path(given))
    newer = next((e.version for e in found.model.opset_import if e.domain == DOMAIN and e.version > VERSION), None)
    if newer is not None:
        raise LoadError(
            f"the file uses version {newer} of domain {DOMAIN}",
            where=found.name,
            why=f"this actswap knows version {VERSION}; a plain onnxruntime.InferenceSession runs it by its bodies",
            fix="install a newer actswap",
        )
    return found


def _from_bytes(data: bytes) -> ModelFile:
    found = ModelFile(_parsed(data, "a model in memory"), data=data)
    outside = next((t.name for t in tensors_of(found.model) if t.external_data), None)
    if outside is not None:
        raise LoadError(
            "a model in memory cannot have external data",
            where=f"tensor {outside}",
            why="it has no folder beside which its weights could lie",
            fix="onnx.load(path) reads them into the model; or pass the path",
        )
    return found


def _from_file(path: Path) -> ModelFile:
    if not path.is_file():
        raise LoadError(f"there is no file {path}")
    if path.stat().st_size >= _PROTOBUF_LIMIT:
        raise LoadError(
            "the file is larger than an ONNX file can be",
            where=str(path),
            why="protobuf reads 2 GiB at most",
            fix="onnx.save(model, path, save_as_external_data=True) where it was made",
        )
    found = ModelFile(_parsed(path.read_bytes(), str(path)), path)
    try:
        parts = found.parts()
    except LoadError as error:
        raise LoadError(error.what, where=str(path), why=error.why, fix=error.fix) from None
    missing = next((part for part in parts if not part.is_file()), None)
    if missing is not None:
        raise LoadError(
            "the file's weights are missing",
            where=str(path),
            why=f"{missing.name} should lie beside it",
            fix="copy both files, or export again",
        )
    return found


def _parsed(data: bytes, name: str) -> onnx.ModelProto:
    try:
        model = onnx.load_from_string(data)
        if not model.graph.output:
            raise ValueError("it holds no graph")
    except Exception as error:
        raise LoadError("this is not an ONNX file", where=name, why=first_line(error)) from error
    return model


def nodes_of(graph: Any) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph or function, and those of the graphs in their attributes.

    >>> from onnx import helper
    >>> graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    >>> [node.op_type for node in nodes_of(graph)]
    ['Relu']
    """
    for node in graph.node:
        yield node
        for inner in graphs_of(node):
            yield from nodes_of(inner)


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in the attributes of a node: the branches of If, the bodies of Loop and Scan."""
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs


def names_in(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names that a graph reads or returns, those of values outside of it among them."""
    for node in nodes_of(graph):
        yield from node.input
    yield from (value.name for value in graph.output)
    for node in nodes_of(graph):
        for inner in graphs_of(node):
            yield from (value.name for value in inner.output)


def split_biases(model: onnx.ModelProto) -> None:
    """Write ONNX Runtime's Gelus with a bias as an addition and a Gelu, in place."""
    found: list[onnx.NodeProto] = []
    for node in model.graph.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        biased = node.domain == "com.microsoft" and node.op_type in ("BiasGelu", "FastGelu")
        if biased and len(node.input) > 1 and node.input[1]:
            total = f"{node.output[0]}/biased"
            found.append(onnx.helper.make_node("Add", node.input[:2], [total]))
            copied.op_type = node.op_type.removeprefix("Bias")
            copied.input[:] = [total]
        found.append(copied)
    del model.graph.node[:]
    model.graph.node.extend(found)


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that a model stores: initializers and attributes, of inner graphs and functions too."""
    yield from _initializers(model.graph)
    for part in (model.graph, *model.functions):
        for node in nodes_of(part):
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    yield attribute.t
                yield from attribute.tensors
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                yield from _initializers(inner)


def external_files(model: onnx.ModelProto, folder: Path) -> list[Path]:
    """Return the files that the tensors of a model lie in, each once; they may be missing.

    Args:
        model: a model loaded without its external data.
        folder: the folder of its file.

    Raises:
        LoadError: a file lies outside of the folder: by its path, or by a link.
    """
    places = {e.value for t in tensors_of(model) for e in t.external_data if e.key == "location"}
    return [_inside(place, folder) for place in sorted(places)]


def _inside(place: str, folder: Path) -> Path:
    file = folder / place
    try:
        outside = not place or Path(place).is_absolute() or not file.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        outside = True
    if outside:
        raise LoadError(
            f"the file names {place[:80]!r} as a place of its weights",
            why="weights must lie in the folder of the ONNX file",
            fix="do not trust this file; export the model again",
        )
    return file
