"""The CPU kernels behind the operators: calls into the C ABI core with ctypes."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from actswap.ops.contract import Kernel
from actswap.ops.fast_path import connect
from actswap.ops.geometry import agreeing
from actswap.ops.how_to_build import advice

LIBRARY = Path(__file__).parent / "libactswap_kernels.so"
ABI = 4

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_FORMS = {"unsafe": 0, "A": 1, "B": 2, "D": 2, "C": 3}
_BASES = {"chebyshev_t": 0, "chebyshev_u": 1, "legendre": 2, "laguerre": 3, "hermite_prob": 4, "hermite_phys": 5}
_ACON, _META_ACON, _DY_RELU, _PAU, _OPAU = range(5)
_BACKWARD, _SPATIAL_ALL, _ATTENTION = 1, 2, 8
_SLOTS = 10
_HEAD, _POINTERS = struct.Struct("<I9i2I8x16q"), struct.Struct(f"<{4 + 2 * _SLOTS}Q8x")  # struct actswap_call
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
    constants: tuple[int, Tensor] | None = None  # a slot, and the numbers in it


def _load() -> tuple[Any, Status]:
    lost = "Activations run on the plain formulas: 4 to 30 times slower on the CPU, and 3 to 11 tensors kept per site."
    build = f"Install a C++ compiler and run: {advice()}"
    if not LIBRARY.exists():
        return None, Status(False, "", f"The CPU kernels were not built. {lost} {build}")
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return None, Status(False, "", f"The CPU kernels do not load ({error}). {lost} {build}")
    library.actswap_isa.restype = library.actswap_check.restype = ctypes.c_char_p
    isa = library.actswap_isa().decode()
    return library, Status(True, isa, f"CPU kernels for {isa}")


_library, _status = _load()
_run: Any = None if _library is None else _library.actswap_host_run
if _run is not None:
    _run.argtypes = [ctypes.c_char_p, ctypes.c_int]
_Direct = None if _run is None else connect(ctypes.cast(_run, ctypes.c_void_p).value or 0, _SMALL)
if _run is not None and _Direct is None:
    _absent = f"calls on small tensors cost more than they need (wants Python headers, torch >= 2.10, then {advice()})"
    _status = _status._replace(note=f"{_status.note}; {_absent}")


def status() -> Status:
    """Return whether the CPU kernels are in use, and what to do where they are not."""
    return _status


def _head(
    plan: Plan,
    args: Sequence[Any],
    others: Sequence[tuple[torch.Size, tuple[int, ...]]],
    backward: bool,
) -> bytes | None:
    """Pack everything of a call but its pointers; None where the tensors need dense copies first.

    Args:
        plan: the call.
        args: the operator's arguments.
        others: shapes and strides of the tensors that must agree with x: y or grad_x, then grad_y.
        backward: which pass it is.
    """
    x = args[0]
    shared = sum(1 << s.slot for s in plan.slots if s.width and args[s.position].numel() == s.width)
    merge = not plan.gated and all(shared >> s.slot & 1 for s in plan.slots)
    layouts = agreeing([(x.shape, x.stride()), *others], plan.dim % x.dim(), merge, plan.gated)
    if layouts is None:
        return None
    (extents, strides), *rest = layouts
    flags = plan.flags | (_BACKWARD if backward else 0)
    y_strides = rest[0].strides if rest else strides
    return _HEAD.pack(
        ABI, plan.op, _DTYPES[x.dtype], flags, plan.form, plan.basis, *plan.degrees, plan.hidden, plan.pieces,
        shared, 0, *extents, *strides, *y_strides, *(rest[-1].strides if rest else strides),
    )  # fmt: skip


class _Calls:
    """One operator's way into the core: calls of a kind are checked and laid out once, then remembered."""

    def __init__(
        self,
        positions: tuple[int, ...],
        plan_of: Callable[[Sequence[Any]], Plan],
        objection: Callable[[Sequence[Any]], str],
        constant: int,
    ) -> None:
        self.positions, self.plan_of, self.objection = positions, plan_of, objection
        self.after = positions[-1] + 1
        self.plans: dict[Any, Plan | str] = {}
        self.heads: dict[Any, bytes | None] = {}
        self.fast_path = None if _Direct is None else _Direct(self.lay, self.after, constant)

    def key(self, args: Sequence[Any]) -> tuple[Any, ...]:
        return (args[0].shape, *[args[p].shape for p in self.positions], *args[self.after :])

    def plan(self, args: Sequence[Any]) -> Plan | str:
        """Return the plan of a call, or why there is none."""
        key = self.key(args)
        plan = self.plans.get(key)
        if plan is None:
            _forget(self.plans)
            x = args[0]
            bare = x.numel() == 0 or not -x.dim() <= args[-1] < x.dim()
            why = "the input is empty or has no channel axis" if bare else self.objection(args)
            plan = self.plans[key] = why or self.plan_of(args)
        return plan

    def lay(
        self, args: tuple[Any, ...], grad: Tensor | None
    ) -> tuple[bytes, tuple[tuple[int, int], ...], tuple[int, ...] | None, Any] | None:
        """Lay a call out for `direct`: the struct, (slot, position) pairs, the means' shape, what must stay alive."""
        x = args[0]
        plan = self.plan(args)
        if isinstance(plan, str) or x.dtype not in _DTYPES:
            return None
        y = torch.empty_like(x)
        others = [y] if grad is None else [y, grad]
        head = _head(plan, args, [(t.shape, t.stride()) for t in others], grad is not None)
        if head is None:
            return None
        pointers = [0] * (4 + 2 * _SLOTS)
        if plan.constants is not None:
            pointers[4 + plan.constants[0]] = plan.constants[1].data_ptr()
        slots = tuple((s.slot, s.position) for s in plan.slots)
        return head + _POINTERS.pack(*pointers), slots, _mean_shape(x, plan) if plan.gated else None, plan

    def refuses(self, args: Sequence[Any]) -> str:
        x = args[0]
        if x.dtype not in _DTYPES:
            return f"the kernels compute float32, bfloat16 and float16, not {x.dtype}"
        if not x.is_cpu:
            return "x is not on the CPU"
        if x.layout is not torch.strided or x.is_neg() or x._is_zerotensor() or torch._is_functional_tensor(x):
            return "x is not plain memory: sparse, a lazy negation or zero, or under a transform"
        for position in self.positions:
            if not args[position].is_cpu:
                return f"argument {position} is not on the CPU"
        plan = self.plan(args)
        if isinstance(plan, str):
            return plan
        if plan.op >= _PAU and args[3].requires_grad:
            return "the kernels give no gradient of the tails"
        return ""

    def forward(self, args: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
        x = args[0]
        y = torch.empty_like(x)
        key = self.key(args)
        plan = self.plans.get(key) or self.plan_of(args)
        assert not isinstance(plan, str), plan
        mean = torch.empty(_mean_shape(x, plan), dtype=torch.float32) if plan.gated else None
        self.run(plan, key, args, y, None, mean, {})
        return y, mean

    def backward(
        self, grad: Tensor, args: Sequence[Any], aux: Tensor | None, needs: Sequence[bool]
    ) -> list[Tensor | None]:
        key = self.key(args)
        plan = self.plans.get(key) or self.plan_of(args)
        assert not isinstance(plan, str), plan
        # Ungated kernels write grad_x along the way whether it is asked for or not.
        dx = torch.empty_like(args[0]) if needs[0] or not plan.gated else None
        found: list[Tensor | None] = [None] * len(needs)
        found[0] = dx if needs[0] else None
        grads = {}
        for slot, position, _ in plan.slots:
            if needs[position]:
                p = args[position]
                found[position] = grads[slot] = torch.empty(p.shape, dtype=torch.float32)
        self.run(plan, key, args, dx, grad, aux, grads)
        for slot, position, _ in plan.slots:
            if slot in grads and args[position].dtype is not torch.float32:
                found[position] = grads[slot].to(args[position].dtype)
        return found

    def run(
        self,
        plan: Plan,
        key: tuple[Any, ...],
        args: Sequence[Any],
        y: Tensor | None,
        grad: Tensor | None,
        mean: Tensor | None,
        grads: Mapping[int, Tensor],
    ) -> None:
        """Run the core; `y` is y or grad_x, `grads` holds the parameters' gradient buffers by slot."""
        x = args[0]
        threads = torch.get_num_threads() if x.numel() > _SMALL else 1
        pointers = [0] * (2 * _SLOTS)
        keep = []
        for slot, position, _ in plan.slots:
            p = args[position]
            if p.dtype is not torch.float32 or not p.is_contiguous():
                p = p.detach().to(torch.float32).contiguous()
                keep.append(p)
            pointers[slot] = p.data_ptr()
        if plan.constants is not None:
            pointers[plan.constants[0]] = plan.constants[1].data_ptr()
        for slot, buffer in grads.items():
            pointers[_SLOTS + slot] = buffer.data_ptr()
        others = [] if y is None else [y]
        if grad is not None:
            if grad.dtype is not x.dtype:
                grad = grad.to(x.dtype)
            others.append(grad)
        kind = (key, x.stride(), x.dtype, y is None, None if grad is None else grad.stride())
        if kind not in self.heads:
            _forget(self.heads)
            self.heads[kind] = _head(plan, args, [(t.shape, t.stride()) for t in others], grad is not None)
        if (head := self.heads[kind]) is None:
            # Run on copies that are dense in one order; y is copied to where it belongs.
            dense = None if y is None else _dense(y, plan)
            copies = [_dense(x.detach(), plan), *args[1:]]
            tangent = None if grad is None else _dense(grad, plan)
            self.run(plan, key, copies, dense, tangent, mean, grads)
            if y is not None and dense is not None:
                y.copy_(dense)
            return
        packed = head + _POINTERS.pack(
            x.data_ptr(),
            0 if y is None else y.data_ptr(),
            0 if grad is None else grad.data_ptr(),
            0 if mean is None else mean.data_ptr(),
            *pointers,
        )
        code = _run(packed, threads)
        if code:
            why = "out of memory" if code == 2 else _library.actswap_check(packed).decode()
            raise RuntimeError(f"actswap kernel refused the call: {why}")


def _dense(t: Tensor, plan: Plan) -> Tensor:
    """Return a copy whose samples, channels and positions each are one axis in memory, if t is not so already.

    Axes before the channels belong to the positions if samples stay apart, so the channels come before them then.
    """
    if not plan.gated:
        return t.contiguous()
    return t.movedim(plan.dim, 1).contiguous().movedim(1, plan.dim)


def _mean_shape(x: Tensor, plan: Plan) -> tuple[int]:
    """What forward leaves for backward: the mean of each sample and channel, then the attention of each position."""
    samples, channels = x.shape[0], x.shape[plan.dim]
    attention = x.numel() // channels if plan.flags & _ATTENTION else 0
    return (samples * channels + attention,)


def _forget(cache: dict[Any, Any]) -> None:
    """Bound a cache: shapes may change with every call."""
    if len(cache) > 2000:
        cache.clear()


def _kernel(
    positions: tuple[int, ...],
    plan_of: Callable[[Sequence[Any]], Plan],
    objection: Callable[[Sequence[Any]], str],
    constant: int = -1,
) -> Kernel:
    calls = _Calls(positions, plan_of, objection, constant)
    return Kernel("native", calls.refuses, calls.forward, calls.backward, calls.fast_path)


def _sizes(args: Sequence[Any], dim: int, slots: Sequence[Slot]) -> str:
    channels = args[0].shape[dim]
    for _, position, width in slots:
        n = args[position].numel()
        if n != width and n != width * channels:
            return f"argument {position} has {n} values, wanted {width} or {width} for each of {channels} channels"
    return ""


def _acon(slots: tuple[Slot, ...]) -> Kernel:
    last = slots[-1].position + 1
    return _kernel(
        tuple(s.position for s in slots),
        lambda args: Plan(_ACON, args[last], slots),
        lambda args: _sizes(args, args[last], slots),
    )


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
    if args[4] not in _FORMS and args[4] not in _BASES:
        return f"there is no form or basis {args[4]!r}"
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


def _attended_plan(args: Sequence[Any]) -> Plan:
    plan, more = _lines_plan([*args[:7], args[11]]), (Slot(6, 7, 1), Slot(7, 8, 0))
    return plan._replace(
        slots=(*plan.slots, *more), flags=plan.flags | _ATTENTION, constants=(8, torch.tensor(args[9:11]))
    )


def _attended_objection(args: Sequence[Any]) -> str:
    dim = args[11]
    return _lines_objection([*args[:7], dim]) or _sizes(args, dim, (Slot(6, 7, 1),))


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
        "meta_acon": _kernel((1, 2, 3, 4, 5, 6, 7), _meta_plan, _meta_objection),
        "dy_relu": _kernel((1, 2, 3, 4, 5, 6), _lines_plan, _lines_objection),
        "dy_relu_c": _kernel(tuple(range(1, 9)), _attended_plan, _attended_objection),
        "pau": _kernel((1, 2, 3), _pau_plan, _rational_objection, constant=3),
        "opau": _kernel((1, 2, 3), _opau_plan, _rational_objection, constant=3),
    }
)
