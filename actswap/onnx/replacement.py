"""What takes an activation's place in an ONNX graph: one node of the domain `actswap`, inside its shift and its cap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, helper, numpy_helper
from torch.utils._python_dispatch import TorchDispatchMode

from actswap.activations.base import Spec
from actswap.activations.bounded import split
from actswap.errors import UsageError
from actswap.onnx.forms import GraphSite
from actswap.onnx.functions import DOMAIN, Array, Lowered, lower
from actswap.sites import Start


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the calls of the project's operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == DOMAIN:
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def lowered_start(spec: Spec, start: Start, shape: Sequence[int], dim: int, options: Mapping[str, Any]) -> Lowered:
    """Return what a start is as one operator: the module is built, and a call of it shows the operator's arguments.

    Args:
        spec: the target.
        start: its parameters.
        shape: of the activation's input.
        dim: its channel axis.
        options: of the target.

    Raises:
        UsageError: the target is not one operator of the project.
    """
    module = spec.build(shape[dim], dim, **options)
    module.load_start(start.params)  # type: ignore[operator]
    small = [1] * len(shape)
    small[dim] = shape[dim]
    recorder = _Recorder()
    with torch.no_grad(), recorder:
        module.eval()(torch.zeros(small))
    if len(recorder.calls) != 1:
        raise UsageError(f"{spec.name} cannot be put into an ONNX file", why="it is not one operator of the project")
    function, args = recorder.calls[0]
    named = dict(zip((a.name for a in function._schema.arguments), args, strict=False))
    tensors = {k: v.detach().numpy() for k, v in named.items() if isinstance(v, torch.Tensor) and k != "x"}
    scalars = {k: v for k, v in named.items() if not isinstance(v, torch.Tensor)}
    return lower(function._schema.name.split("::")[1], tensors, scalars, len(shape))


def nodes_of(graph: onnx.GraphProto, site: GraphSite, lowered: Lowered) -> list[NodeProto]:
    """Make the nodes of a site: the activation, inside the shift and the cap that its source has.

    Args:
        graph: takes the constants of the nodes; the nodes themselves are returned.
        site: where they go.
        lowered: the activation.
    """
    _, shift, cap = split(site.source)

    def constant(name: str, array: Array) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), f"{site.y}/{name}"))
        return f"{site.y}/{name}"

    nodes: list[NodeProto] = []
    x = site.x
    if shift:
        nodes.append(helper.make_node("Sub", [x, constant("shift", np.float32(shift))], [f"{site.y}/shifted"]))
        x = f"{site.y}/shifted"
    names = [constant(n, a) for n, a in zip(lowered.function.inputs[1:], lowered.inputs, strict=True)]
    capped = np.isfinite(cap)
    y = f"{site.y}/inner" if capped or shift else site.y
    node = helper.make_node(lowered.function.op, [x, *names], [y], name=site.name, domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in lowered.attributes.items())
    nodes.append(node)
    if shift:
        back = f"{site.y}/back" if capped else site.y
        nodes.append(helper.make_node("Add", [y, f"{site.y}/shift"], [back]))
        y = back
    if capped:
        nodes.append(helper.make_node("Clip", [y, "", constant("cap", np.float32(cap))], [site.y]))
    return nodes
