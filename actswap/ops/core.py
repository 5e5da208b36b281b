"""Calls into the CPU kernels: the library, and how tensors become a `Call` of its C ABI."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from actswap.ops import libraries
from actswap.ops.abi import VERSION, Call, Dtype, Flags, Op
from actswap.ops.contract import Kernel
from actswap.ops.fast_path import connect
from actswap.ops.geometry import agreeing
from actswap.ops.libraries import advice

_DTYPES = {torch.float32: Dtype.F32, torch.bfloat16: Dtype.BF16, torch.float16: Dtype.F16}
_SMALL = 1 << 15  # elements below which a second thread costs more than it brings
_REMEMBERED = 2000  # kinds of calls that an operator keeps: shapes may change with every call


class Status(NamedTuple):
    """The kernels' state: the instruction set in use, or what is lost without them and how to get them."""

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

    op: Op
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
    file = libraries.find("actswap_kernels")
    if file is None:
        return None, Status(False, "", f"The CPU kernels were not built. {lost} {build}")
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        return None, Status(False, "", f"The CPU kernels do not load ({error}). {lost} {build}")
    library.actswap_isa.restype = library.actswap_check.restype = ctypes.c_char_p
    library.actswap_check.argtypes = [ctypes.POINTER(Call)]
    library.actswap_host_run.argtypes = [ctypes.POINTER(Call), ctypes.c_int]
    isa = library.actswap_isa().decode()
    return library, Status(True, isa, f"CPU kernels for {isa}")


_library, _status = _load()
_run: Any = None if _library is None else _library.actswap_host_run
FastPath = None if _run is None else connect(ctypes.cast(_run, ctypes.c_void_p).value or 0, _SMALL)
if _run is not None and FastPath is None:
    _absent = f"calls on small tensors cost more than they need (wants Python headers, torch >= 2.10, then {advice()})"
    _status = _status._replace(note=f"{_status.note}; {_absent}")


def status() -> Status:
    """Return whether the CPU kernels are in use, and what to do if they are not.

    >>> status().available == bool(status().isa)
    True
    """
    return _status


def _head(plan: Plan, args: Sequence[Any], y: Tensor | None, grad: Tensor | None) -> bytes | None:
    """Return a `Call` without its pointers, as bytes; None if the tensors need dense copies first.

    Args:
        plan: the call.
        args: the operator's arguments.
        y: y, or grad_x in backward, if it is wanted.
        grad: the gradient of y in backward.
    """
    x = args[0]
    shared = sum(1 << s.slot for s in plan.slots if s.width and args[s.position].numel() == s.width)
    merge = not plan.gated and all(shared >> s.slot & 1 for s in plan.slots)
    tensors = [t for t in (x, y, grad) if t is not None]
    layouts = agreeing([(t.shape, t.stride()) for t in tensors], plan.dim % x.dim(), merge, plan.gated)
    if layouts is None:
        return None
    of_x, of_y, of_grad = layouts[0], layouts[y is not None], layouts[-1]
    call = Call(
        abi=VERSION, op=plan.op, dtype=_DTYPES[x.dtype], form=plan.form, basis=plan.basis,
        flags=plan.flags | (Flags.BACKWARD if grad is not None else 0),
        degree_p=plan.degrees[0], degree_q=plan.degrees[1], hidden=plan.hidden, pieces=plan.pieces, shared=shared,
        x_stride=of_x.strides, y_stride=of_y.strides, g_stride=of_grad.strides,
        x_size=_reach(x), y_size=0 if y is None else _reach(y), g_size=0 if grad is None else _reach(grad),
        mean_size=_mean_shape(x, plan)[0] if plan.gated else 0,
    )  # fmt: skip
    call.batch, call.groups, call.channels, call.inner = of_x.extents
    for slot, position, _ in plan.slots:
        call.param_size[slot] = args[position].numel()
    if plan.constants is not None:
        slot, numbers = plan.constants
        call.param[slot], call.param_size[slot] = numbers.data_ptr(), numbers.numel()
    return bytes(call)


def _reach(t: Tensor) -> int:
    """Return the number of elements from the first to the last one in memory."""
    return 1 + sum((n - 1) * step for n, step in zip(t.shape, t.stride(), strict=True))


class Calls:
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
        self.fast_path = None if FastPath is None else FastPath(self.lay, self.after, constant)

    def key(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """Return what tells a kind of call from another, but for x's type and strides."""
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
        """Lay a call out for the fast path.

        Returns:
            The `Call`, its (slot, position) pairs, the shape of the means, and what must stay alive; None if the call
            is none for the fast path.
        """
        x = args[0]
        plan = self.plan(args)
        if isinstance(plan, str) or x.dtype not in _DTYPES:
            return None
        head = _head(plan, args, torch.empty_like(x), grad)
        if head is None:
            return None
        slots = tuple((s.slot, s.position) for s in plan.slots)
        return head, slots, _mean_shape(x, plan) if plan.gated else None, plan

    def refuses(self, args: Sequence[Any]) -> str:
        """Return why the kernels do not take a call, "" if they do."""
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
        if plan.op >= Op.PAU and args[3].requires_grad:
            return "the kernels give no gradient of the tails"
        return ""

    def forward(self, args: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
        """Compute y, and what saves work in backward."""
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
        """Compute the gradients that are needed."""
        key = self.key(args)
        plan = self.plans.get(key) or self.plan_of(args)
        assert not isinstance(plan, str), plan
        if aux is not None and not _is_mean(aux, args[0], plan):
            aux = None  # the core computes it again
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
        if grad is not None and grad.dtype is not x.dtype:
            grad = grad.to(x.dtype)
        kind = (key, x.stride(), x.dtype, y is None, None if grad is None else grad.stride())
        if kind not in self.heads:
            _forget(self.heads)
            self.heads[kind] = _head(plan, args, y, grad)
        if (head := self.heads[kind]) is None:
            # Run on copies that are dense in one order; y is copied to where it belongs.
            dense = None if y is None else _dense(y, plan)
            copies = [_dense(x.detach(), plan), *args[1:]]
            tangent = None if grad is None else _dense(grad, plan)
            self.run(plan, key, copies, dense, tangent, mean, grads)
            if y is not None and dense is not None:
                y.copy_(dense)
            return
        call = Call.from_buffer_copy(head)
        keep = []
        for slot, position, _ in plan.slots:
            p = args[position]
            if p.dtype is not torch.float32 or not p.is_contiguous():
                p = p.detach().to(torch.float32).contiguous()
                keep.append(p)
            call.param[slot] = p.data_ptr()
        for slot, buffer in grads.items():
            call.grad_param[slot] = buffer.data_ptr()
        call.x = x.data_ptr()
        call.y = None if y is None else y.data_ptr()
        call.grad_y = None if grad is None else grad.data_ptr()
        call.mean = None if mean is None else mean.data_ptr()
        code = _run(call, threads)
        if code:
            why = "out of memory" if code == 2 else _library.actswap_check(call).decode()
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
    attention = x.numel() // channels if plan.flags & Flags.ATTENTION else 0
    return (samples * channels + attention,)


def _is_mean(aux: Tensor, x: Tensor, plan: Plan) -> bool:
    """Return whether this may be what forward left: users can call the backward operator with anything."""
    plain = aux.is_cpu and aux.dtype is torch.float32 and aux.is_contiguous()
    return plan.gated and plain and aux.shape == _mean_shape(x, plan)


def _forget(cache: dict[Any, Any]) -> None:
    """Empty a cache that has grown too long."""
    if len(cache) > _REMEMBERED:
        cache.clear()


def kernel(
    positions: tuple[int, ...],
    plan_of: Callable[[Sequence[Any]], Plan],
    objection: Callable[[Sequence[Any]], str],
    constant: int = -1,
) -> Kernel:
    """Return an operator's kernel.

    Args:
        positions: of the tensors among the arguments, without x.
        plan_of: makes the plan of a call to which there is no objection.
        objection: says why a call has no kernel, "" if it has one.
        constant: position of the tensor that gets no gradient, -1 if there is none.
    """
    calls = Calls(positions, plan_of, objection, constant)
    return Kernel("native", calls.refuses, calls.forward, calls.backward, calls.fast_path)
