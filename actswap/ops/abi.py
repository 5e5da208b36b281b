"""The C ABI of the CPU kernels, as native/include/actswap_kernels.h declares it."""

from __future__ import annotations

import ctypes
from enum import IntEnum, IntFlag

VERSION = 5
SLOTS = 10


class Dtype(IntEnum):
    """Type of x, y and their gradients."""

    F32 = 0
    BF16 = 1
    F16 = 2


class Op(IntEnum):
    """Operators of the core."""

    ACON = 0
    META_ACON = 1
    DY_RELU = 2
    PAU = 3
    OPAU = 4


class Form(IntEnum):
    """Denominators of PAU; OPAU has the first two."""

    UNSAFE = 0
    FORM_A = 1
    FORM_B = 2
    FORM_C = 3


class Basis(IntEnum):
    """Polynomials of OPAU."""

    CHEBYSHEV_T = 0
    CHEBYSHEV_U = 1
    LEGENDRE = 2
    LAGUERRE = 3
    HERMITE_PROB = 4
    HERMITE_PHYS = 5


class Flags(IntFlag):
    """What a call asks for beside its operator."""

    BACKWARD = 1
    SPATIAL_ALL = 2
    SPLIT = 4
    ATTENTION = 8
    CAPPED = 16


_FOUR = ctypes.c_int64 * 4
_POINTERS = ctypes.c_void_p * SLOTS


class Call(ctypes.Structure):
    """`struct actswap_call`: one call of the core."""

    _fields_ = (
        ("abi", ctypes.c_uint32),
        ("op", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("flags", ctypes.c_int32),
        ("form", ctypes.c_int32),
        ("basis", ctypes.c_int32),
        ("degree_p", ctypes.c_int32),
        ("degree_q", ctypes.c_int32),
        ("hidden", ctypes.c_int32),
        ("pieces", ctypes.c_int32),
        ("shared", ctypes.c_uint32),
        ("cap", ctypes.c_float),
        ("pooled", ctypes.c_int32),
        ("batch", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("inner", ctypes.c_int64),
        ("x_stride", _FOUR),
        ("y_stride", _FOUR),
        ("g_stride", _FOUR),
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("grad_y", ctypes.c_void_p),
        ("mean", ctypes.c_void_p),
        ("param", _POINTERS),
        ("grad_param", _POINTERS),
        ("convolution", ctypes.c_void_p),
        ("x_size", ctypes.c_int64),
        ("y_size", ctypes.c_int64),
        ("g_size", ctypes.c_int64),
        ("mean_size", ctypes.c_int64),
        ("param_size", ctypes.c_int64 * SLOTS),
    )
