"""From the exporter's graph to the file's: names of axes and outputs, function bodies, metadata."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxscript.optimizer

from actswap.activations.base import OnnxFunction
from actswap.onnx.functions import DOMAIN, VERSION
from actswap.plan import tool_version

_LARGE = 1 << 16  # bytes of a weight
_AXES = {
    4: ("batch", "channels", "height", "width"),
    3: ("batch", "length", "width"),
    2: ("batch", "length"),
    1: ("batch",),
}


def finalize(
    model: ir.Model,
    functions: Sequence[OnnxFunction],
    opset: int,
    decompose: bool,
    metadata: Mapping[str, str],
    outputs: Sequence[str],
    name: str,
) -> onnx.ModelProto:
    """Drop the exporter's notes (they hold local paths), name things, attach bodies and metadata.

    Args:
        model: the graph, with lowered activation nodes.
        functions: the functions it uses.
        opset: version of the standard operators, for the bodies.
        decompose: put standard operators in place of the activation nodes.
        metadata: entries beside the tool's own.
        outputs: names for the outputs, in order.
        name: name of the graph.
    """
    _name_outputs(model, outputs)
    _keep_pads(model)
    for part in (model.graph, *model.graph.subgraphs()):
        part.metadata_props.clear()
        for node in part:
            node.metadata_props.clear()
            node.doc_string = None
    model.graph.name = name
    proto = ir.to_proto(model)
    _name_axes(proto)
    _forget_weights(proto)
    attach(proto, functions, opset)
    if decompose:
        proto = inline(proto)
    proto.producer_name, proto.producer_version = "actswap", tool_version()
    entries = {"actswap.version": tool_version(), "actswap.domain_version": str(VERSION), **metadata}
    onnx.helper.set_model_props(proto, entries)
    return proto


def attach(proto: onnx.ModelProto, functions: Sequence[OnnxFunction], opset: int) -> None:
    """Give the file the bodies of these functions, each once."""
    known = {(f.domain, f.name) for f in proto.functions}
    proto.functions.extend(body(f, opset) for f in functions if (DOMAIN, f.op) not in known)


def body(function: OnnxFunction, opset: int) -> onnx.FunctionProto:
    """Parse the body of a function for a version of the standard operators.

    The body casts its parameters to float32 first: tools that turn a file into float16 turn its initializers too.
    """
    attributes = f" <{', '.join(function.attributes)}>" if function.attributes else ""
    inputs = ", ".join(function.inputs)
    text = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]> {function.op}{attributes} ({inputs}) => (y)'
    steps, casts = function.body, ""
    for name in function.inputs[1:]:
        steps = re.sub(rf"\b{name}\b", f"{name}_f", steps)
        casts += f"\n    {name}_f = Cast <to = 1> ({name})"
    return onnx.parser.parse_function(f"{text}\n{{{casts}{steps}}}")


def inline(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Put the bodies in place of the nodes, and compute what is constant in them.

    The inliner copies the model as one protobuf of 2 GiB at most. So large weights, which are no part of an activation,
    are taken out of `proto` and put into the result.
    """
    stored = list(proto.graph.initializer)
    large = [tensor for tensor in stored if len(tensor.raw_data) > _LARGE]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(tensor for tensor in stored if len(tensor.raw_data) <= _LARGE)
    count = len(proto.graph.input)
    proto.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large)
    inlined = ir.from_proto(onnx.inliner.inline_local_functions(proto))
    inlined.opset_imports.pop(DOMAIN, None)
    onnxscript.optimizer.optimize_ir(inlined)
    made = ir.to_proto(inlined)
    del made.graph.input[count:]
    made.graph.initializer.extend(large)
    return made


def operators(proto: onnx.ModelProto) -> dict[str, int]:
    """Count the nodes of the main graph by operator, most frequent first."""
    counts = Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in proto.graph.node)
    return dict(counts.most_common())


def _keep_pads(model: ir.Model) -> None:
    """Give the pads before a pooling an `axes` input, which says what is the default anyway.

    ONNX Runtime (to 1.31 at least) otherwise fuses a pad with zeros into MaxPool, which pads with minus infinity.
    """
    for node in model.graph:
        pads = node.inputs[1] if node.op_type == "Pad" and len(node.inputs) in (2, 3) else None
        readers = {user.op_type for output in node.outputs for user in output.consumers()}
        if pads is None or pads.const_value is None or not readers & {"MaxPool", "AveragePool"}:
            continue
        axes = ir.tensor(np.arange(pads.const_value.size // 2), name=f"{node.outputs[0].name}.axes")
        value = ir.Value(name=axes.name, shape=ir.Shape([axes.size]), type=ir.TensorType(axes.dtype), const_value=axes)
        model.graph.register_initializer(value)
        node.resize_inputs(4)
        node.replace_input_with(3, value)


def _forget_weights(proto: onnx.ModelProto) -> None:
    """Remove the shapes of initializers: with them, ONNX Runtime's `quantize_dynamic` fails on a Gemm."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    kept = [value for value in proto.graph.value_info if value.name not in stored]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)


def _name_outputs(model: ir.Model, names: Sequence[str]) -> None:
    outputs = model.graph.outputs
    taken = {value.name for value in model.graph.inputs} | set(model.graph.initializers)
    if len(names) != len(outputs) or len(set(outputs)) != len(outputs) or taken & set(names):
        return
    for node in model.graph:
        for value in node.outputs:
            if value.name in names:
                value.name = f"{value.name}_inner"
    for value, name in zip(outputs, names, strict=True):
        if value.producer() is not None:
            value.name = name


def _name_axes(proto: onnx.ModelProto) -> None:
    """Rename the exporter's symbols (`s31`) by meaning: `batch`, `height`, `width`, `length`."""
    names: dict[str, str] = {}
    for value in proto.graph.input:
        shape = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(shape):
            if re.fullmatch(r"s\d+", dim.dim_param) and dim.dim_param not in names:
                word = _AXES[len(shape)][axis] if len(shape) in _AXES else f"axis{axis}" if axis else "batch"
                names[dim.dim_param] = word if word not in names.values() else f"{word}_{value.name}"
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.isdigit():
                dim.dim_value = int(dim.dim_param)
            elif dim.dim_param:
                dim.dim_param = re.sub(r"\bs\d+\b", lambda m: names.get(m[0], m[0]), dim.dim_param)
