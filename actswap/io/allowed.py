"""Which classes and functions a pickle may name, and why each is safe.

| names | safe because |
| --- | --- |
| torch's tensors, storages, dtypes and the functions that rebuild them | arguments are checked one by one (`rebuild`) |
| `OrderedDict`, `set`, `torch.Size`, ... (`CONTAINERS`) | they hold data and run nothing |
| classes of nn.Module in `LIBRARIES` | made empty, then filled with checked data; no method of the class runs |
| plain classes in `LIBRARIES`: configurations, data classes, named tuples | likewise |
| enumerations in `LIBRARIES` | the member is looked up, the class is not called |
| actswap's `plan_from_text`, `reinstalled` | they read JSON that was checked before (`converted`) |
| functions in `FUNCTIONS` | kept as values (`self.activation = F.relu`); they take and give tensors |

A class must be named as it was defined: no dotted names, no re-exports, no attributes of modules. So a name cannot
reach `os` through a module that imports it.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from actswap.errors import LoadError
from actswap.io.pickles import Name
from actswap.io.torchvision_import import import_library

# Modules whose classes may be named. transformers: no conversion scripts, and nothing that trains or serves.
LIBRARIES = re.compile(
    r"torch\.nn\.modules\.\w+"
    r"|torch\.nn\.parallel\.data_parallel"
    r"|torch\.ao\.nn\.quantized\.modules\.functional_modules|torch\.ao\.quantization\.stubs"
    r"|torchvision\.(models|ops)(\.\w+)+"
    r"|timm\.(models|layers)(\.\w+)+"
    r"|actswap\.(activations|conversion)(\.\w+)+|actswap\.(record|sites)"
    r"|transformers\.models\.\w+\.(modeling|configuration)_\w+"
    r"|transformers\.(activations|pytorch_utils|generation\.configuration_utils|configuration_utils)"
)
# Plain classes beside nn.Module, enumerations, data classes and configurations; all are data without own hooks.
_PLAIN = {
    ("torchvision.models.detection._utils", "BoxCoder"),
    ("torchvision.models.detection._utils", "Matcher"),
    ("torchvision.models.detection._utils", "SSDMatcher"),
    ("torchvision.models.detection._utils", "BalancedPositiveNegativeSampler"),
    ("torchvision.models.detection._utils", "BoxLinearCoder"),
    ("torchvision.models.detection.image_list", "ImageList"),
    ("argparse", "Namespace"),
}
# Modules of Python whose names no permission can open: they are functions, or they run programs.
_NO_CLASSES = frozenset(("builtins", "__builtin__", "os", "posix", "nt", "subprocess", "sys", "shutil", "copyreg"))
CONTAINERS = {
    ("collections", "OrderedDict"),
    ("collections", "Counter"),
    ("collections", "defaultdict"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "bytearray"),
    ("builtins", "complex"),
    ("builtins", "slice"),
    ("_codecs", "encode"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
}
TENSORS = {
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch._tensor", "_rebuild_from_type_v2"),
}
# The names used here that torch's own weights-only loader knows without any addition.
WEIGHTS_ONLY = TENSORS | CONTAINERS - {("collections", "defaultdict"), ("builtins", "frozenset"), ("builtins", "slice")}
STORAGES = {kind: dtype for dtype, kind in torch.storage._dtype_to_storage_type_map().items()}
_POINTWISE = """
relu relu_ relu6 leaky_relu elu celu selu gelu silu mish hardswish hardsigmoid hardtanh softplus softsign logsigmoid
tanhshrink hardshrink softshrink tanh sigmoid softmax log_softmax glu dropout
"""
_FUNCTION_HOMES = ("torch", "torch.nn.functional", "torch._C._nn", "torch._VariableFunctions")
FUNCTIONS: dict[tuple[str, str], Any] = {
    (home, name): getattr(owner, name)
    for home in _FUNCTION_HOMES
    for owner in [
        {"torch": torch, "torch.nn.functional": nn.functional, "torch._C._nn": torch._C._nn}.get(
            home, torch._C._VariableFunctions
        )
    ]
    for name in _POINTWISE.split()
    if hasattr(owner, name)
}
# Functions of libraries that their models keep as attributes; all compute tensors from tensors.
_LIBRARY_FUNCTIONS = {
    *(
        ("timm.layers.activations", name)
        for name in ["swish", "mish", "hard_swish", "hard_mish", "gelu", "gelu_tanh", "quick_gelu"]
    ),
    ("torchvision.ops.boxes", "box_iou"),
    ("torchvision.models.optical_flow.raft", "_pass_through_h"),
}
_TORCH_VALUES = (torch.dtype, torch.memory_format, torch.layout, torch.qscheme)
# A class with one of these is not rebuilt from its attributes alone. Reviewed: they only add missing attributes.
_OWN_WAYS = ("__setstate__", "__reduce__", "__reduce_ex__", "__del__")
_REVIEWED_SETSTATE = {
    ("torch.nn.modules.module", "Module"),
    ("torch.nn.modules.activation", "MultiheadAttention"),
    ("torch.nn.modules.activation", "Softmin"),
    ("torch.nn.modules.activation", "Softmax"),
    ("torch.nn.modules.activation", "LogSoftmax"),
    ("torch.nn.modules.conv", "_ConvNd"),
    ("torch.nn.modules.pooling", "AvgPool3d"),
    ("torch.nn.modules.rnn", "RNNBase"),
    ("torch.nn.modules.transformer", "TransformerEncoderLayer"),
    ("torch.nn.modules.transformer", "TransformerDecoderLayer"),
    ("torch.nn.modules.upsampling", "Upsample"),
    ("timm.layers.ml_decoder", "TransformerDecoderLayerOptimal"),
}


def is_under(module: str, packages: Sequence[str]) -> bool:
    """Return True if a module is one of the packages or lies inside one."""
    return any(module == package or module.startswith(package + ".") for package in packages)


def value_of(name: Name, allow: Sequence[str]) -> Any:
    """Return the class, function or constant that a pickle names as a value.

    Args:
        name: the name.
        allow: packages whose classes the user trusts.

    Raises:
        LoadError: it is not on the list.
    """
    pair = (name.module, name.name)
    if pair in FUNCTIONS:
        return FUNCTIONS[pair]
    if pair in _LIBRARY_FUNCTIONS:
        return getattr(import_library(name.module), name.name)
    if name.module == "torch" and isinstance(found := vars(torch).get(name.name), _TORCH_VALUES):
        return found
    if name.module == "torch" and name.name == "device":
        return torch.device
    return class_of(name, allow)


def class_of(name: Name, allow: Sequence[str]) -> type:
    """Return the class that a pickle names, imported from the module that defines it.

    Raises:
        LoadError: the class is not allowed, or not installed.
    """
    by_user = is_under(name.module, allow)
    if not by_user and not LIBRARIES.fullmatch(name.module) and (name.module, name.name) not in _PLAIN:
        why = "only nn.Module classes and plain containers of torch, torchvision, timm and transformers are"
        raise _refuse(name, why, permission_helps=name.name.isidentifier())
    if not name.name.isidentifier() or not all(part.isidentifier() for part in name.module.split(".")):
        raise _refuse(name, "the name of a class has no dots")
    try:
        found = vars(import_library(name.module)).get(name.name)
    except ImportError as problem:
        raise LoadError(
            f"the file needs {name}, which cannot be imported here",
            why=str(problem)[:200],
            fix=f"install the {name.module.split('.')[0]} that the model was saved with, or run from its folder",
        ) from None
    if found is None:
        raise LoadError(
            f"the file needs {name}, which cannot be imported here",
            why=f"{name.module} of this version has no {name.name}",
            fix=f"install the {name.module.split('.')[0]} that the model was saved with",
        )
    if not inspect.isclass(found):
        raise _refuse(name, "it is a function: a pickle could call it with values of its own")
    if (found.__module__, found.__qualname__) != (name.module, name.name):
        raise _refuse(name, f"the class is {found.__module__}.{found.__qualname__}, and a file must name it so")
    if issubclass(found, (torch.fx.GraphModule, torch.jit.ScriptModule)):
        raise _refuse(name, "it carries program text inside the file")
    if not by_user and not _is_data(found):
        raise _refuse(name, "it is neither an nn.Module class nor a plain container", permission_helps=True)
    return found


def is_named_tuple(kind: type) -> bool:
    """Return True for a class of collections.namedtuple or typing.NamedTuple."""
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def _is_data(kind: type) -> bool:
    """Return True if an instance can be made empty and filled without running a method of the class."""
    if issubclass(kind, enum.Enum) or is_named_tuple(kind):
        return True
    plain = (
        issubclass(kind, nn.Module)
        or hasattr(kind, "__dataclass_fields__")
        or (kind.__module__, kind.__name__) in _PLAIN
        or any(base.__name__ in ("PreTrainedConfig", "PretrainedConfig", "GenerationConfig") for base in kind.__mro__)
    )
    return plain and all(_is_reviewed(base) for base in kind.__mro__ if base is not object)


def _is_reviewed(base: type) -> bool:
    if base.__module__.startswith("actswap."):  # the project's own modules only add missing attributes, too
        return True
    return (base.__module__, base.__qualname__) in _REVIEWED_SETSTATE or not any(
        method in vars(base) for method in _OWN_WAYS
    )


def _refuse(name: Name, why: str, permission_helps: bool = False) -> LoadError:
    package = name.module.split(".")[0]
    safer = "save the weights, torch.save(model.state_dict(), 'weights.pt'), and give --model package.module:factory"
    helps = permission_helps and package not in _NO_CLASSES
    permit = f"--allow {package} if you trust that package (in Python: allow=({package!r},)), or "
    return LoadError(
        f"the file needs {name}, which is not on the list of allowed classes",
        why=why,
        fix=permit + safer if helps else safer,
        add=f"--allow {package}" if helps else "",
    )
