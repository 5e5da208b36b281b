"""From torch operators `actswap::*` to nodes of domain `actswap` in the exported graph.

There are two steps. `translation_table` makes the exporter write one node per operator, with the torch operator's
arguments. `lower_nodes` then gives each node its final signature: it computes the parameters, shapes them for
broadcasting, and stores them as initializers.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx.reference import ReferenceEvaluator
from onnxscript import values

from actswap.activations.base import OnnxFunction
from actswap.errors import ExportError
from actswap.onnx.algebra.values import initializer
from actswap.onnx.functions import DOMAIN, LOWERINGS, VERSION, Array, lower, sample_axis

_TYPES = ["tensor(float)", "tensor(float16)", "tensor(double)"]
_RAW = f"{DOMAIN}.raw"
_ATTRIBUTES: Mapping[str, Callable[[str, Any], ir.Attr]] = {
    "int": ir.AttrInt64,
    "ints": ir.AttrInt64s,
    "float": ir.AttrFloat32,
}


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Map every registered torch operator of the project to a writer of its raw node.

    >>> torch.ops.actswap.acon_c.default in translation_table()  # for torch.onnx.export(custom_translation_table=...)
    True
    """
    found = [getattr(torch.ops.actswap, name).default for name in LOWERINGS if hasattr(torch.ops.actswap, name)]
    return {operator: _raw_writer(operator) for operator in found}


def _raw_writer(operator: Any) -> Callable[..., Any]:
    arguments = operator._schema.arguments
    kinds = {argument.name: str(argument.type) for argument in arguments}
    tensors = [name for name, kind in kinds.items() if "Tensor" in kind]
    attributes = {"int": "INT", "float": "FLOAT", "str": "STRING", "bool": "INT"}
    formal, kind_of = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.AttrType
    schema = onnx.defs.OpSchema(
        operator._schema.name.split("::")[1],
        _RAW,
        VERSION,
        inputs=[formal(name, "T" if i == 0 else f"T{i}") for i, name in enumerate(tensors)],
        outputs=[formal("y", "T")],
        type_constraints=[("T", _TYPES, "")] + [(f"T{i}", _TYPES, "") for i in range(1, len(tensors))],
        attributes=[
            onnx.defs.OpSchema.Attribute(name, getattr(kind_of, attributes[kind]))
            for name, kind in kinds.items()
            if name not in tensors
        ],
    )
    node = values.Op(values.Opset(_RAW, VERSION), schema.name, schema)

    def write(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(kinds, args, strict=False)), **kwargs}
        return node(*(given[name] for name in tensors), **{k: v for k, v in given.items() if k not in tensors})

    return write


def lower_nodes(model: ir.Model) -> list[OnnxFunction]:
    """Rewrite every raw node in place; return the functions that the model now uses, each once."""
    functions: dict[str, OnnxFunction] = {}
    taken: set[str] = set()
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in list(graph):
            if node.domain == _RAW:
                function = _lower_node(model.graph, node, taken)
                functions[function.op] = function
    model.opset_imports.pop(_RAW, None)
    if functions:
        model.opset_imports[DOMAIN] = VERSION
    ir.passes.common.RemoveUnusedNodesPass()(model)
    return list(functions.values())


def _lower_node(main: ir.Graph, node: ir.Node, taken: set[str]) -> OnnxFunction:
    x = node.inputs[0]
    if x is None or x.shape is None:
        raise ExportError(f"{node.op_type} has an input of unknown rank", where=node.name or "")
    schema = getattr(torch.ops.actswap, node.op_type).default._schema
    names = [a.name for a in schema.arguments if "Tensor" in str(a.type)][1:]
    given = [value for value in node.inputs[1:]]
    opset = main.opset_imports.get("", 18)
    arrays = constants([value for value in given if value is not None], opset, node.op_type)
    present = [name for name, value in zip(names, given, strict=False) if value is not None]
    scalars = {name: attribute.value for name, attribute in node.attributes.items()}
    tensors = dict(zip(present, arrays, strict=True))
    rank = len(x.shape)
    added = sample_axis(tensors, scalars["dim"], rank)
    if added is not None:
        rank, scalars["dim"] = rank + 1, 1
    lowered = lower(node.op_type, tensors, scalars, rank)
    site = _free(site_name(node), taken)  # a layer that runs twice has two nodes
    taken.add(site)
    parameters: list[ir.Value | None] = []
    for name, array in zip(lowered.function.inputs[1:], lowered.inputs, strict=True):
        parameters.append(initializer(main, f"{site}.{name}", array))
    around: list[ir.Node] = []
    if added is not None:
        axis = initializer(main, f"{site}.axis", np.asarray([added], np.int64))
        around = [ir.Node("", "Unsqueeze", [x, axis], num_outputs=1)]
    new = ir.Node(
        DOMAIN,
        lowered.function.op,
        [around[0].outputs[0] if around else x, *parameters],
        [_ATTRIBUTES[lowered.function.attributes[k]](k, v) for k, v in lowered.attributes.items()],
        num_outputs=1,
        name=site,
    )
    nodes = [*around, new]
    if around:
        nodes.append(ir.Node("", "Squeeze", [new.outputs[0], axis], num_outputs=1))
    old_output, new_output = node.outputs[0], nodes[-1].outputs[0]
    new_output.name, new_output.shape, new_output.type = old_output.name, old_output.shape, old_output.type
    owner = node.graph
    assert owner is not None
    ir.convenience.replace_nodes_and_values(owner, node, [node], nodes, [old_output], [new_output])
    return lowered.function


def site_name(node: ir.Node) -> str:
    """Name of the module that made the call, from the exporter's scopes, or else the node's own name."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")
    path = [scope for scope in ast.literal_eval(scopes) if scope]
    return path[-2] if len(path) > 1 else (node.name or node.outputs[0].name or node.op_type)


def _free(name: str, taken: Collection[str]) -> str:
    """Return the name, with `@k` if it is taken."""
    numbered = (f"{name}@{k}" for k in itertools.count(1))
    return name if name not in taken else next(n for n in numbered if n not in taken)


def constants(wanted: Sequence[ir.Value], opset: int, where: str = "") -> list[Array]:
    """Compute values that depend on no graph input, from the initializers and nodes that make them."""
    nodes: dict[ir.Node, None] = {}
    initializers: dict[str, ir.Value] = {}

    def visit(value: ir.Value) -> None:
        producer = value.producer()
        if producer is None:
            if value.const_value is None or value.is_graph_input():
                raise ExportError(
                    f"{where}: the parameter {value.name!r} depends on the input",
                    where=where,
                    why="the parameters of an activation are stored in the file as constants",
                )
            initializers[value.name or ""] = value
        elif producer not in nodes:
            for parent in producer.inputs:
                if parent is not None:
                    visit(parent)
            nodes[producer] = None

    results: dict[int, Array] = {}
    pending: list[ir.Value] = []
    for value in wanted:
        if value.producer() is None and value.const_value is not None and not value.is_graph_input():
            results[id(value)] = value.const_value.numpy()
        else:
            visit(value)
            pending.append(value)
    if pending:
        graph = onnx.helper.make_graph(
            [ir.to_proto(node) for node in nodes],
            "constants",
            [],
            [onnx.ValueInfoProto(name=value.name) for value in pending],
            [onnx.numpy_helper.from_array(v.const_value.numpy(), n) for n, v in initializers.items() if v.const_value],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        arrays = ReferenceEvaluator(model).run(None, {})
        results.update({id(value): array for value, array in zip(pending, arrays, strict=True)})
    return [results[id(value)] for value in wanted]
