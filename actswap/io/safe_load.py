"""What a model file may hold: the checks that run before anything of the file does.

Three rules. (1) A pickle may name only allowed globals, and is *rehearsed* with inert stand-ins first: the
rehearsal proves that the file only creates empty modules and fills their attributes, so that no constructor
ever sees values from the file. (2) An exported program may hold only known records, operators of known
namespaces, and expressions built from names, numbers and arithmetic (torch passes them to `sympify` and
`exec`). (3) Whatever is not understood is refused, by name.
"""

from __future__ import annotations

import ast
import enum
import functools
import importlib
import inspect
import io
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.export.pt2_archive._package import PT2ArchiveReader

from actswap.errors import LoadError

LIBRARIES = (
    "torch.nn",
    "torch.ao.nn.quantized.modules.functional_modules",
    "torch.ao.quantization.stubs",
    "torchvision.models",
    "torchvision.ops",
    "timm.models",
    "timm.layers",
    "transformers.models",
    "transformers.activations",
    "transformers.pytorch_utils",
    "transformers.generation.configuration_utils",
)
# Functions that models keep as attributes (`self.activation = F.relu`). Each takes tensors and numbers only.
_FUNCTIONS = re.compile(
    "relu|relu_|relu6|leaky_relu|elu|celu|selu|gelu|silu|mish|hardswish|hardsigmoid|hardtanh|softplus|softsign|"
    "logsigmoid|tanhshrink|hardshrink|softshrink|tanh|sigmoid|softmax|log_softmax|glu|dropout"
)
_FUNCTION_HOMES = ("torch", "torch.nn.functional", "torch._C._nn", "torch._VariableFunctions", "builtins")


class _Standin:
    """Takes the place of an allowed class in a rehearsal: no constructor arguments, no behaviour."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Standin:
        if args or kwargs:
            raise LoadError(
                f"the file calls the constructor of {cls.__name__} with values of its own",
                why="torch.save writes modules that are created empty and then filled; this file does not",
                fix="save the weights, torch.save(model.state_dict(), 'weights.pt'), and give --model",
            )
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


class _ValueStandin(_Standin):
    """Stand-in of an enumeration, a named tuple or a class the user allowed: may take arguments."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _ValueStandin:
        return object.__new__(cls)


def _under(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def _resolve(path: str) -> Any:
    """Import the object at a dotted path whose package was allowed before."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = import_library(".".join(parts[:cut]))
        except ModuleNotFoundError as problem:
            if problem.name and not ".".join(parts[:cut]).startswith(problem.name):
                raise
            continue
        return functools.reduce(getattr, parts[cut:], found)
    raise ModuleNotFoundError(path)


def import_library(name: str) -> Any:
    """Import a module; torchvision also where its compiled part does not fit the installed torch.

    A torchvision wheel built for another torch raises "operator torchvision::nms does not exist" on import,
    although most of its models never call that operator. Declaring it lets them load; calling it still fails.
    """
    try:
        return importlib.import_module(name)
    except RuntimeError as problem:
        if "torchvision::nms" not in str(problem):
            raise
        _declare_torchvision_operators()
        return importlib.import_module(name)


@functools.cache
def _declare_torchvision_operators() -> Any:
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _refuse(path: str, why: str) -> LoadError:
    package = path.split(".")[0]
    return LoadError(
        f"the file needs {path}, which is not on the list of allowed classes",
        why=why,
        fix=f"add --allow {package} if you trust that package (in Python: allow=({package!r},)), or save the "
        "weights (torch.save(model.state_dict(), 'weights.pt')) and give --model package.module:factory",
    )


def _judge(path: str, allow: Sequence[str]) -> tuple[Any, type | None]:
    """Return the real object and its stand-in (None: the object is harmless itself), or raise LoadError."""
    home, _, name = path.rpartition(".")
    if _FUNCTIONS.fullmatch(name) and home in _FUNCTION_HOMES:
        owner = torch if home == "torch._VariableFunctions" else importlib.import_module(home)
        if hasattr(owner, name):
            return getattr(owner, name), None
    if path == "functools.partial":
        return functools.partial, None
    by_user = _under(path, allow)
    if not by_user and not _under(path, LIBRARIES):
        raise _refuse(
            path,
            "only nn.Module classes and plain containers of torch, torchvision, timm and transformers are",
        )
    try:
        found = _resolve(path)
    except (ImportError, AttributeError) as problem:
        raise LoadError(
            f"the file needs {path}, which cannot be imported here",
            why=str(problem),
            fix=f"install the {path.split('.')[0]} that the model was saved with, or run from its folder",
        ) from None
    if not inspect.isclass(found):
        raise _refuse(path, "it is a function: a pickle could call it with values of its own")
    if issubclass(found, (torch.fx.GraphModule, torch.jit.ScriptModule)):
        raise _refuse(path, "it carries program text inside the file")
    if by_user or issubclass(found, enum.Enum) or (issubclass(found, tuple) and hasattr(found, "_fields")):
        return found, _ValueStandin
    if issubclass(found, nn.Module) or hasattr(found, "__dataclass_fields__"):
        return found, _Standin
    if any(base.__name__ in ("PreTrainedConfig", "PretrainedConfig", "GenerationConfig") for base in found.__mro__):
        return found, _Standin
    raise _refuse(path, "it is neither an nn.Module class nor a plain container")


def _is_plain(found: type) -> bool:
    """Whether creating an empty instance and filling its attributes runs no method of the class."""
    hooks = ("__new__", "__setstate__", "__setattr__", "__del__")
    return not any(hook in base.__dict__ for base in found.__mro__ if base is not object for hook in hooks)


def allowed_globals(path: str, allow: Sequence[str]) -> list[Any]:
    """Check every global that a file of torch.save names, rehearse the file, and return what may load it.

    Args:
        path: a zip file written by torch.save.
        allow: packages whose classes the user trusts.

    Returns:
        Pairs for `torch.serialization.safe_globals`.

    Raises:
        LoadError: names the first global that is not allowed; nothing of the file has run.
    """
    judged = {name: _judge(name, allow) for name in sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))}
    standins: list[Any] = [
        (type(name.rpartition(".")[2], (standin,), {}) if standin else real, name)
        for name, (real, standin) in judged.items()
    ]
    with (
        torch.serialization.safe_globals(standins),
        torch.serialization.skip_data(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        torch.load(path, map_location="cpu", weights_only=True)
    return [(real, name) for name, (real, _) in judged.items()]


# --- exported programs ---

_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/[\w./]+|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
)
_TARGETS = re.compile(
    r"torch\.ops\.(aten|prims|actswap|torchvision|quantized|quantized_decomposed|higher_order)\.\w+(\.\w+)?"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.sym_\w+|torch\._sym_sqrt"
)
_PLAIN = re.compile(r"[\w.:@\-/ +]*")
_CALLS = re.compile(
    "Max|Min|Mod|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Abs|Pow|Mul|Add|Integer|Float|Rational|sqrt|floor|ceiling|FloorDiv|"
    "CeilDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|IntTrueDiv|FloatTrueDiv|TruncToInt|"
    "TruncToFloat|RoundToInt|RoundDecimal|ToFloat|Identity|FloatPow|PowByNatural|LShift|RShift|size|stride|"
    "storage_offset|Symbol"
)
_WORD = re.compile(r"(?!.*__)[A-Za-z0-9_]{1,64}")
_NODES = (
    ast.Expression, ast.Constant, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.BinOp, ast.operator,
    ast.UnaryOp, ast.unaryop, ast.Load, ast.Name, ast.Subscript, ast.Call, ast.keyword, ast.Attribute,
)  # fmt: skip
_SPECS = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None}
_SPEC_TEXT = re.compile(r"null|\[[\w\s\",.\-]*\]")


def _is_arithmetic(text: str) -> bool:
    """Whether an expression holds only names, numbers, arithmetic and the few functions of shapes."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            return False
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if not _CALLS.fullmatch(called):
                return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not _WORD.fullmatch(node.value):
            return False  # sympify would evaluate the text inside
        if isinstance(node, ast.Attribute) and not _CALLS.fullmatch(node.attr):
            return False
        if isinstance(node, ast.Name) and "__" in node.id:
            return False
    return True


def _strings(data: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, text) for every string of a JSON tree, without metadata and string constants."""
    if isinstance(data, str):
        yield key, data
    elif isinstance(data, list):
        for item in data:
            yield from _strings(item, key)
    elif isinstance(data, dict):
        for name, value in data.items():
            if name in ("metadata", "as_string", "as_strings") and key != "":
                continue
            yield "name of an entry", name
            yield from _strings(value, name)


def _spec_types(spec: Any) -> Iterator[tuple[Any, Any]]:
    yield spec.get("type"), spec.get("context")
    for child in spec.get("children_spec", ()):
        yield from _spec_types(child)


def is_plain_tree(text: str) -> bool:
    """Whether a serialised pytree holds only tuples, lists and dicts; others import modules when read."""
    try:
        protocol, spec = json.loads(text)
        return protocol == 1 and all(
            kind in _SPECS and (context is None or bool(_SPEC_TEXT.fullmatch(context)))
            for kind, context in _spec_types(spec)
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False


def _fits(key: str, text: str) -> bool:
    if key == "target":
        return bool(_TARGETS.fullmatch(text))
    if key in ("expr_str", "guards_code"):
        return _is_arithmetic(text)
    if key in ("in_spec", "out_spec"):
        protocol, spec = json.loads(text)
        return protocol == 1 and all(
            kind in _SPECS and (context is None or (isinstance(context, str) and _SPEC_TEXT.fullmatch(context)))
            for kind, context in _spec_types(spec)
        )
    if key == "forward_arg_names":
        return text.isidentifier()
    return bool(_PLAIN.fullmatch(text)) or _is_arithmetic(text)


def check_exported(path: str) -> None:
    """Check every record of a `.pt2` archive (torch.export.save) before torch reads it.

    Raises:
        LoadError: names the record or the text that is not allowed.
    """
    fix = "export the model again, or load its weights with --model package.module:factory"
    with PT2ArchiveReader(path) as archive:
        for record in archive.get_file_names():
            if not _RECORDS.fullmatch(record):
                raise LoadError(
                    f"the exported program holds {record!r}, which actswap does not load", where=path, fix=fix
                )
            if record.endswith("sample_inputs/model.pt"):
                names = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(archive.read_bytes(record)))
                if names:
                    raise LoadError(
                        f"the exported program's sample inputs need {sorted(names)[0]}", where=path, fix=fix
                    )
        program = json.loads(archive.read_string("models/model.json"))
    for key, text in _strings(program):
        if not _fits(key, text):
            raise LoadError(
                f"the exported program holds a {key} that actswap does not evaluate: {text[:80]!r}",
                where=path,
                why="torch would run it as program text",
                fix=fix,
            )
