"""The CPU kernels behind the operators: what each asks of the core, and which calls it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from actswap.ops.abi import Basis, Flags, Form, Op
from actswap.ops.contract import Kernel
from actswap.ops.core import Plan, Slot, kernel, status

__all__ = ["KERNELS", "status"]

_FORMS = {"unsafe": Form.UNSAFE, "A": Form.FORM_A, "B": Form.FORM_B, "D": Form.FORM_B, "C": Form.FORM_C}
_BASES = {basis.name.lower(): basis for basis in Basis}
_MOST_COEFFICIENTS = 15
_MOST_LINES = 4


def _sizes(args: Sequence[Any], dim: int, slots: Sequence[Slot]) -> str:
    channels = args[0].shape[dim]
    for _, position, width in slots:
        n = args[position].numel()
        if n != width and n != width * channels:
            return f"argument {position} has {n} values, wanted {width} or {width} for each of {channels} channels"
    return ""


def _acon(slots: tuple[Slot, ...]) -> Kernel:
    last = slots[-1].position + 1
    return kernel(
        tuple(s.position for s in slots),
        lambda args: Plan(Op.ACON, args[last], slots),
        lambda args: _sizes(args, args[last], slots),
    )


def _rational_slots(args: Sequence[Any]) -> tuple[Slot, ...]:
    return Slot(0, 1, args[1].shape[-1]), Slot(1, 2, args[2].shape[-1]), Slot(2, 3, 5)


def _pau_plan(args: Sequence[Any]) -> Plan:
    _, a, b, _, form, dim = args
    degrees = (a.shape[-1] - 1, b.shape[-1] - (form == "C"))
    return Plan(Op.PAU, dim, _rational_slots(args), form=_FORMS[form], degrees=degrees)


def _opau_plan(args: Sequence[Any]) -> Plan:
    _, c, d, _, basis, safe, dim = args
    degrees = (c.shape[-1] - 1, d.shape[-1])
    form = Form.FORM_A if safe else Form.UNSAFE
    return Plan(Op.OPAU, dim, _rational_slots(args), form=form, basis=_BASES[basis], degrees=degrees)


def _rational_objection(args: Sequence[Any]) -> str:
    over, under, kind = args[1], args[2], args[4]
    if kind not in _FORMS and kind not in _BASES:
        return f"the kernels know no {kind!r}"
    if over.dim() not in (1, 2) or under.dim() not in (1, 2):
        return "coefficients have one axis, or two with the channels first"
    if not 0 < over.shape[-1] <= _MOST_COEFFICIENTS or not 0 < under.shape[-1] <= _MOST_COEFFICIENTS:
        return f"the kernels take degrees up to {_MOST_COEFFICIENTS - 1} and a denominator"
    return _sizes(args, args[-1], _rational_slots(args))


def _gate_objection(x: Tensor, dim: int, layers: Sequence[Tensor], rows: Sequence[int]) -> str:
    """Object to the two layers (w1, b1, w2, b2) of a gate, which has one of these numbers of outputs."""
    w1, b1, w2, b2 = layers
    if dim % x.dim() == 0:
        return "axis 0 is the samples"
    hidden = b1.numel()
    if hidden == 0 or w1.shape != (hidden, x.shape[dim]):
        return f"the first weights are {tuple(w1.shape)}, wanted ({hidden}, {x.shape[dim]}): one input per channel"
    if w2.shape not in [(n, hidden) for n in rows] or b2.shape != w2.shape[:1]:
        return f"the second layer is {tuple(w2.shape)} and {tuple(b2.shape)}, wanted {' or '.join(map(str, rows))} rows"
    return ""


def _meta_plan(args: Sequence[Any]) -> Plan:
    slots = tuple(Slot(i, i + 1, int(i < 3)) for i in range(7))
    return Plan(Op.META_ACON, args[8], slots, hidden=args[4].shape[0], gated=True)


def _meta_objection(args: Sequence[Any]) -> str:
    x, dim = args[0], args[8]
    why = _gate_objection(x, dim, args[4:8], [x.shape[dim]])
    return why or _sizes(args, dim, tuple(Slot(i, i + 1, 1) for i in range(3)))


def _lines_plan(args: Sequence[Any]) -> Plan:
    slots = [Slot(i, i + 1, 0) for i in range(6)]
    rows = args[6].numel()
    slots[4] = Slot(4, 5, rows)
    flags = Flags.SPATIAL_ALL if args[3].shape[0] == rows else Flags(0)
    plan = Plan(Op.DY_RELU, args[7], tuple(slots), hidden=args[1].shape[0], gated=True)
    return plan._replace(pieces=rows // 2, flags=flags)


def _lines_objection(args: Sequence[Any]) -> str:
    x, init, rows, dim = args[0], args[5], args[6].numel(), args[7]
    channels = x.shape[dim]
    if rows % 2 or not 0 < rows <= 2 * _MOST_LINES:
        return f"the kernel computes up to {_MOST_LINES} lines"
    if why := _gate_objection(x, dim, args[1:5], [rows, rows * channels]):
        return why
    one_gate = args[3].shape[0] == rows
    if init.numel() == rows or (init.numel() == rows * channels and not one_gate):
        return ""
    return "init has another shape than the coefficients"


def _attended_plan(args: Sequence[Any]) -> Plan:
    plan, more = _lines_plan([*args[:7], args[11]]), (Slot(6, 7, 1), Slot(7, 8, 0))
    constants = (8, torch.tensor(args[9:11], dtype=torch.float32))
    return plan._replace(slots=(*plan.slots, *more), flags=plan.flags | Flags.ATTENTION, constants=constants)


def _attended_objection(args: Sequence[Any]) -> str:
    dim = args[11]
    if args[8].numel() != 1:
        return "the attention has one bias"
    return _lines_objection([*args[:7], dim]) or _sizes(args, dim, (Slot(6, 7, 1),))


KERNELS: Mapping[str, Kernel] = (
    {}
    if not status().available
    else {
        "swish": _acon((Slot(2, 1, 1),)),
        "acon_b": _acon((Slot(1, 1, 1), Slot(2, 2, 1))),
        "acon_c": _acon((Slot(0, 1, 1), Slot(1, 2, 1), Slot(2, 3, 1))),
        "meta_acon": kernel((1, 2, 3, 4, 5, 6, 7), _meta_plan, _meta_objection),
        "dy_relu": kernel((1, 2, 3, 4, 5, 6), _lines_plan, _lines_objection),
        "dy_relu_c": kernel(tuple(range(1, 9)), _attended_plan, _attended_objection),
        "pau": kernel((1, 2, 3), _pau_plan, _rational_objection, constant=3),
        "opau": kernel((1, 2, 3), _opau_plan, _rational_objection, constant=3),
    }
)
