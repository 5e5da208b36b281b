"""The CPU kernels behind the operators: calls into the C ABI core with ctypes."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from actswap.ops.geometry import Geometry, dense_copy, geometry, ready
from actswap.ops.kernel import Kernel

LIBRARY = Path(__file__).parent / "libactswap_kernels.so"
ABI = 1

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_FORMS = {"unsafe": 0, "A": 1, "B": 2, "D": 2, "C": 3}
_BASES = {"chebyshev_t": 0, "chebyshev_u": 1, "legendre": 2, "laguerre": 3, "hermite_prob": 4, "hermite_phys": 5}
_ACON, _META_ACON, _DY_RELU, _PAU, _OPAU = range(5)
_BACKWARD, _SPATIAL_ALL, _SPLIT = 1, 2, 4
_SLOTS = 10
_CALL = struct.Struct(f"<I9i2I16q4Q{2 * _SLOTS}Q")  # struct actswap_call
_SMALL = 1 << 15  # elements below which a second thread costs more than it brings


class Status(NamedTuple):
    """Whether the kernels are there: the instruction set in use, or what is lost and how to get it."""

    available: bool
    isa: str
    note: str


class Slot(NamedTuple):
    """A parameter: its slot in the call, its position among the arguments, its values per channel (0: as it is)."""

    slot: int
    position: int
    width: int


class Plan(NamedTuple):
    """What one call asks of the core, beside the tensors."""

    op: int
    dim: int
    slots: tuple[Slot, ...]
    form: int = 0
    basis: int = 0
    degrees: tuple[int, int] = (0, 0)
    hidden: int = 0
    pieces: int = 0
    flags: int = 0
    gated: bool = False


def _load() -> tuple[Any, Status]:
    lost = "Activations run on the plain formulas: 4 to 30 times slower on the CPU, and 3 to 11 tensors kept per site."
    build = "Install a C++ compiler and run: python -m actswap.ops.build"
    if not LIBRARY.exists():
        return None, Status(False, "", f"The CPU kernels were not built. {lost} {build}")
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return None, Status(False, "", f"The CPU kernels do not load ({error}). {lost} {build}")
    library.actswap_isa.restype = ctypes.c_char_p
    library.actswap_check.restype = ctypes.c_char_p
    isa = library.actswap_isa().decode()
    return library, Status(True, isa, f"CPU kernels for {isa}")


_library, _status = _load()
_run = None if _library is None else _library.actswap_host_run


def status() -> Status:
    """Return whether the CPU kernels are in use, and what to do where they are not."""
    return _status


def _strides(t: Tensor, dim: int, merge: bool, gated: bool) -> Geometry | None:
    return geometry(t.shape, t.stride(), dim, merge, gated)


def _call(
    plan: Plan,
    args: Sequence[Any],
    y: Tensor | None,
    grad: Tensor | None,
    mean: Tensor | None,
    grads: Mapping[int, Tensor],
) -> None:
    """Run the core on dense tensors; `grads` holds the gradient buffers by slot."""
    x = args[0]
    shared, params, keep = 0, [0] * _SLOTS, []
    merge = not plan.gated
    for slot, position, width in plan.slots:
        p = args[position]
        if p.dtype is not torch.float32 or not p.is_contiguous():
            p = p.to(torch.float32).contiguous()
            keep.append(p)
        if width and p.numel() == width:
            shared |= 1 << slot
        else:
            merge = False
        params[slot] = p.data_ptr()
    dim = plan.dim % x.dim()
    x, layout = ready(x, dim, merge, plan.gated)
    flags, count, threads = plan.flags, x.numel(), 1
    if count > _SMALL:
        threads = torch.get_num_threads()
        if threads > 1 and plan.gated and layout.extents[0] < 2 * threads:
            flags |= _SPLIT
    out, tangent = y, grad
    strides = layout.strides
    y_strides = g_strides = strides
    if y is not None and y.stride() != x.stride():
        found = _strides(y, dim, merge, plan.gated)
        if found is None or (found.strides[3] == 1) != (strides[3] == 1) or found.extents != layout.extents:
            x = x.contiguous()
            out = torch.empty_like(x)
            strides = y_strides = g_strides = ready(x, dim, merge, plan.gated)[1].strides
        else:
            y_strides = found.strides
    if tangent is not None:
        flags |= _BACKWARD
        if tangent.stride() != x.stride() or tangent.dtype != x.dtype:
            found = _strides(tangent, dim, merge, plan.gated) if tangent.dtype == x.dtype else None
            if found is None or (found.strides[3] == 1) != (strides[3] == 1) or found.extents != layout.extents:
                tangent = torch.empty_like(x, memory_format=torch.preserve_format).copy_(tangent)
                found = _strides(tangent, dim, merge, plan.gated)
                assert found is not None, "a copy like x has a geometry"
            g_strides = found.strides
    buffers = [0] * _SLOTS
    for slot, buffer in grads.items():
        buffers[slot] = buffer.data_ptr()
    packed = _CALL.pack(
        ABI, plan.op, _DTYPES[x.dtype], flags, plan.form, plan.basis, *plan.degrees, plan.hidden, plan.pieces,
        shared, 0, *layout.extents, *strides, *y_strides, *g_strides,
        x.data_ptr(), 0 if out is None else out.data_ptr(), 0 if tangent is None else tangent.data_ptr(),
        0 if mean is None else mean.data_ptr(), *params, *buffers,
    )  # fmt: skip
    code = _run(packed, threads)
    if code:
        why = "out of memory" if code == 2 else _library.actswap_check(packed).decode()
        raise RuntimeError(f"actswap kernel refused the call: {why}")
    if out is not y and y is not None and out is not None:
        y.copy_(out)


def _kernel(plan_of: Callable[[Sequence[Any]], Plan], objection: Callable[[Sequence[Any]], str]) -> Kernel:
    def refuses(args: Sequence[Any]) -> str:
        x = args[0]
        if x.dtype not in _DTYPES:
            return f"the kernels compute float32, bfloat16 and float16, not {x.dtype}"
        if x.numel() == 0 or x.dim() == 0:
            return "the input is empty or has no axis"
        for a in args:
            if isinstance(a, Tensor) and not a.is_cpu:
                return "a tensor is not on the CPU"
        return objection(args)

    def forward(args: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
        plan, x = plan_of(args), args[0]
        y = torch.empty_like(x)
        mean = None
        if plan.gated:
            mean = torch.empty(x.shape[0], x.shape[plan.dim], dtype=torch.float32)
        _call(plan, args, y, None, mean, {})
        return y, mean

    def backward(
        grad: Tensor, args: Sequence[Any], aux: Tensor | None, needs: Sequence[bool]
    ) -> list[Tensor | None]:
        plan, x = plan_of(args), args[0]
        # Ungated kernels write grad_x along the way whether it is asked for or not.
        dx = torch.empty_like(x) if needs[0] or not plan.gated else None
        grads = {
            s.slot: torch.empty_like(args[s.position], dtype=torch.float32, memory_format=torch.contiguous_format)
            for s in plan.slots
            if needs[s.position]
        }
        _call(plan, args, dx, grad, aux, grads)
        found: list[Tensor | None] = [None] * len(needs)
        found[0] = dx if needs[0] else None
        for slot, position, _ in plan.slots:
            if needs[position]:
                found[position] = grads[slot].to(args[position].dtype)
        return found

    return Kernel("native", refuses, forward, backward)


def _sizes(args: Sequence[Any], dim: int, slots: Sequence[Slot]) -> str:
    channels = args[0].shape[dim]
    for _, position, width in slots:
        n = args[position].numel()
        if n != width and n != width * channels:
            return f"argument {position} has {n} values, wanted {width} or {width} for each of {channels} channels"
    return ""


def _acon(slots: tuple[Slot, ...]) -> Kernel:
    last = slots[-1].position + 1
    cache: dict[int, Plan] = {}

    def plan(args: Sequence[Any]) -> Plan:
        dim = args[last]
        if dim not in cache:
            cache[dim] = Plan(_ACON, dim, slots)
        return cache[dim]

    return _kernel(plan, lambda args: _sizes(args, args[last], slots))


def _rational_slots(args: Sequence[Any]) -> tuple[Slot, ...]:
    return Slot(0, 1, args[1].shape[-1]), Slot(1, 2, args[2].shape[-1]), Slot(2, 3, 5)


def _pau_plan(args: Sequence[Any]) -> Plan:
    _, a, b, _, form, dim = args
    degrees = (a.shape[-1] - 1, b.shape[-1] - (form == "C"))
    return Plan(_PAU, dim, _rational_slots(args), form=_FORMS[form], degrees=degrees)


def _opau_plan(args: Sequence[Any]) -> Plan:
    _, c, d, _, basis, safe, dim = args
    degrees = (c.shape[-1] - 1, d.shape[-1])
    return Plan(_OPAU, dim, _rational_slots(args), form=int(safe), basis=_BASES[basis], degrees=degrees)


def _rational_objection(args: Sequence[Any]) -> str:
    if args[3].requires_grad:
        return "the kernels give no gradient of the tails"
    if max(args[1].shape[-1], args[2].shape[-1]) > 15 or args[2].shape[-1] == 0:
        return "the kernels take degrees up to 14 and a denominator"
    return _sizes(args, args[-1], _rational_slots(args))


def _meta_plan(args: Sequence[Any]) -> Plan:
    slots = tuple(Slot(i, i + 1, int(i < 3)) for i in range(7))
    return Plan(_META_ACON, args[8], slots, hidden=args[4].shape[0], gated=True)


def _meta_objection(args: Sequence[Any]) -> str:
    x, w1, w2, b2, dim = args[0], args[4], args[6], args[7], args[8]
    channels = x.shape[dim]
    if dim % x.dim() == 0:
        return "axis 0 is the samples"
    if w1.shape[1] != channels or w2.shape[0] != channels or b2.numel() != channels:
        return "the kernel computes the channel-wise gate only"
    return _sizes(args, dim, tuple(Slot(i, i + 1, 1) for i in range(3)))


def _lines_plan(args: Sequence[Any]) -> Plan:
    slots = [Slot(i, i + 1, 0) for i in range(6)]
    rows = args[6].numel()
    slots[4] = Slot(4, 5, rows)
    flags = _SPATIAL_ALL if args[3].shape[0] == rows else 0
    plan = Plan(_DY_RELU, args[7], tuple(slots), hidden=args[1].shape[0], gated=True)
    return plan._replace(pieces=rows // 2, flags=flags)


def _lines_objection(args: Sequence[Any]) -> str:
    x, w1, w2, init, rows, dim = args[0], args[1], args[3], args[5], args[6].numel(), args[7]
    channels = x.shape[dim]
    if dim % x.dim() == 0:
        return "axis 0 is the samples"
    if rows not in (2, 4, 6, 8) or w1.shape[1] != channels or w2.shape[0] not in (rows, rows * channels):
        return "the kernel computes up to four lines, with one gate per channel or one for all"
    if init.numel() == rows or (init.numel() == rows * channels and w2.shape[0] != rows):
        return ""
    return "init has another shape than the coefficients"


KERNELS: Mapping[str, Kernel] = (
    {}
    if _library is None
    else {
        "swish": _acon((Slot(2, 1, 1),)),
        "acon_b": _acon((Slot(1, 1, 1), Slot(2, 2, 1))),
        "acon_c": _acon((Slot(0, 1, 1), Slot(1, 2, 1), Slot(2, 3, 1))),
        "meta_acon": _kernel(_meta_plan, _meta_objection),
        "dy_relu": _kernel(_lines_plan, _lines_objection),
        "pau": _kernel(_pau_plan, _rational_objection),
        "opau": _kernel(_opau_plan, _rational_objection),
    }
)
