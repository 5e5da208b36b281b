"""Build the objects that a pickle describes, without running anything that the file chooses.

An instance is made empty (`object.__new__`) and its attributes are written into its `__dict__`: no constructor, no
`__setstate__` of the file's choice and no `__setattr__` runs. Tensors are views of the file's storages whose extent was
checked. What could make a later call run something else than the class says is refused: attributes that shadow a
method, hooks, and callables other than the classes and functions in `actswap.io.allowed`.
"""

from __future__ import annotations

import enum
import functools
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from actswap.errors import LoadError
from actswap.io import allowed, converted
from actswap.io.pickles import NOTHING, Made, Name
from actswap.io.tensor_layout import (
    TENSOR_NAMES,
    extent,
    flag,
    is_empty,
    numel,
    refused,
    storage_key,
    tensor_layout,
    tensor_with_attributes,
)

Storages = Callable[[str], torch.UntypedStorage]
MAX_DEPTH = 250
MAX_PATHS = 1_000_000  # steps of `model.eval()`
_SLACK = 64 << 20
_HOOKS = re.compile(r"_\w*hooks\w*|_is_full_backward_hook")
_IMPLEMENTATION = re.compile(r"\w{0,40}")
_FIX = "save the weights (torch.save(model.state_dict(), 'weights.pt')) and give --model package.module:factory"
_KEYS = (str, int, float, complex, bytes, type(None), torch.dtype, torch.device, type, enum.Enum)
_DEFAULTS = (bool, int, float, str, bytes, type(None), tuple, list, dict, set, frozenset, torch.dtype, Tensor)


class Rebuild:
    """Build the objects of one description.

    Args:
        storages: gives the bytes of a storage by its key.
        size: bytes of the whole file; the tensors may take at most four times that plus 64 MiB.
        allow: packages whose classes the user trusts.
    """

    def __init__(self, storages: Storages, size: int, allow: Sequence[str]) -> None:
        self._storages = functools.cache(storages)
        self._left = 4 * size + _SLACK
        self._numbers = size
        self._allow = allow
        self._built: dict[int, Any] = {}

    def value(self, part: Any, depth: int = 0) -> Any:
        """Return the object that one part of a description stands for; a part that is used twice is built once."""
        if part is None or isinstance(part, (bool, int, float, complex, str, bytes)):
            return part
        if depth > MAX_DEPTH:
            raise refused("it nests objects too deep")
        if isinstance(part, Name):
            return self._named(part)
        if id(part) not in self._built:
            try:
                self._fill(part, depth + 1)
            except RecursionError:  # MAX_DEPTH levels do not fit on the stack if the caller's own is deep
                raise refused("it nests objects too deep") from None
        return self._built[id(part)]

    def _fill(self, part: Any, depth: int) -> None:
        """Build a part that is not a plain value. A container is stored first and filled then: it may hold itself."""
        if isinstance(part, list):
            found: Any = []
            self._built[id(part)] = found
            found.extend(self.value(item, depth) for item in part)
        elif isinstance(part, dict):
            found = {}
            self._built[id(part)] = found
            found.update((self.key(k, depth), self.value(v, depth)) for k, v in part.items())
        elif isinstance(part, (set, frozenset, tuple)):
            each = self.value if isinstance(part, tuple) else self.key
            self._built[id(part)] = type(part)(each(item, depth) for item in part)
        elif isinstance(part, bytearray):
            self._built[id(part)] = bytearray(part)
        elif isinstance(part, Made):
            self._make(part, depth)
        else:
            raise refused("it holds a storage outside of a tensor")

    def whole(self, part: Any) -> Any:
        """Return the object that a whole description stands for; its modules form a tree, or nearly so."""
        found = self.value(part)
        _check_tree([module for module in self._built.values() if isinstance(module, nn.Module)])
        return found

    def key(self, part: Any, depth: int) -> Any:
        """Return the object of a dictionary's key or a set's member; its hash is Python's own."""
        found = self.value(part, depth)
        items = found if isinstance(found, tuple) else (found,)
        if not all(isinstance(item, _KEYS) for item in items):
            raise refused("a key that is no text or number")
        return found

    def _named(self, name: Name) -> Any:
        found = allowed.value_of(name, self._allow)
        if isinstance(found, type) and not self._by_user(name):
            models = any(base.__name__ == "PreTrainedModel" for base in found.__mro__)
            if models or not (issubclass(found, nn.Module) or found is torch.device):
                raise refused(f"it keeps the class {name} as a value, which actswap cannot check")
        return found

    def _by_user(self, name: Name) -> bool:
        return allowed.is_under(name.module, self._allow)

    # --- what is made by a call ---

    def _make(self, part: Made, depth: int) -> None:
        pair = (part.what.module, part.what.name)
        if pair in allowed.TENSORS and part.call:
            self._built[id(part)] = self.tensor(part, depth)
        elif pair in allowed.CONTAINERS and part.call:
            self._container(part, pair[1], depth)
        elif pair == ("functools", "partial") and part.call:
            self._built[id(part)] = self._partial(part, depth)
        elif pair == converted.PLAN and part.call and len(part.args) == 1 and part.state is NOTHING:
            self._built[id(part)] = converted.plan_of_text(part.args[0], self._numbers)
        elif pair == converted.REINSTALLED and part.call and len(part.args) == 2 and isinstance(part.args[0], Name):
            kind = allowed.class_of(part.args[0], self._allow)
            self._module(part, kind, converted.module_of_text(kind, part.args[1], self._numbers), depth)
        else:
            self._instance(part, allowed.class_of(part.what, self._allow), depth)

    def _container(self, part: Made, name: str, depth: int) -> None:
        args = part.args
        if name in ("OrderedDict", "Counter", "defaultdict"):
            factories: dict[Any, Any] = {
                Name("builtins", kind.__name__): kind for kind in (list, dict, int, float, set)
            }
            if name == "OrderedDict":
                found: Any = OrderedDict()
            elif name == "Counter":
                found = Counter()
            elif len(args) == 1 and (args[0] is None or args[0] in factories):
                found, args = defaultdict(factories.get(args[0])), ()
            else:
                raise refused("a defaultdict with a factory of its own")
            self._built[id(part)] = found
            if part.state not in (NOTHING, None, {}) and name != "OrderedDict":
                raise refused(f"a {name} with attributes")
            for listed in args:
                pairs = listed.items() if isinstance(listed, dict) else listed
                found.update({self.key(k, depth): self.value(v, depth) for k, v in pairs})
            found.update({self.key(k, depth): self.value(v, depth) for k, v in part.pairs})
            if name == "OrderedDict" and isinstance(part.state, dict):  # state_dict() keeps its `_metadata` so
                found.__dict__.update({str(k): self.value(v, depth) for k, v in part.state.items()})
            return
        if part.state is not NOTHING or part.items or part.pairs:
            raise refused(f"a {name} with a state")
        values = tuple(self.value(item, depth) for item in args)
        self._built[id(part)] = _plain_call(name, values)

    def _partial(self, part: Made, depth: int) -> Any:
        """Return a layer class or function with options that are numbers or words, as timm keeps for its norms."""
        state = part.state
        if len(part.args) != 1 or not isinstance(state, tuple) or len(state) != 4 or state[0] is not part.args[0]:
            raise refused("a functools.partial of another form than Python writes")
        function, args, options, attributes = state
        if not isinstance(function, Name) or args or attributes or not isinstance(options or {}, dict):
            raise refused("a functools.partial with arguments that actswap cannot check")
        layer = re.fullmatch(r"torch\.nn\.modules\.\w+|timm\.layers\.\w+|torchvision\.ops\.misc", function.module)
        if not layer and (function.module, function.name) not in allowed.FUNCTIONS and not self._by_user(function):
            raise refused(f"a functools.partial of {function}")
        for key, value in (options or {}).items():
            fits = (
                isinstance(key, str) and key.isidentifier() and isinstance(value, (bool, int, float, str, type(None)))
            )
            if not fits or (isinstance(value, int) and abs(value) > 1 << 16):
                raise refused(f"a functools.partial with {str(key)[:40]} = {str(value)[:40]}")
        return functools.partial(self.value(function, depth), **(options or {}))

    # --- instances ---

    def _instance(self, part: Made, kind: type, depth: int) -> None:
        if issubclass(kind, enum.Enum):
            values = [self.value(item, depth) for item in part.args]
            member = next(
                (m for m in kind if len(values) == 1 and type(m.value) is type(values[0]) and m.value == values[0]),
                None,
            )
            if member is None or part.state is not NOTHING:
                raise refused(f"{part.what} has no such member")
            self._built[id(part)] = member
            return
        if allowed.is_named_tuple(kind):
            items: Any = tuple(self.value(item, depth) for item in part.args)
            if part.call or len(items) != len(kind._fields):  # type: ignore[attr-defined]
                raise refused(f"a {part.what} of {len(items)} items")
            self._built[id(part)] = tuple.__new__(kind, items)  # type: ignore[type-var]
            return
        if self._by_user(part.what):
            self._trusted(part, kind, depth)
            return
        if part.call or part.args or part.items or part.pairs:
            raise LoadError(
                f"the file calls the constructor of {part.what} with values of its own",
                why="torch.save writes modules that are created empty and then filled; this file does not",
                fix=_FIX,
            )
        self._module(part, kind, object.__new__(kind), depth)

    def _module(self, part: Made, kind: type, found: Any, depth: int) -> None:
        """Fill an empty instance of `kind`, or of the subclass that a conversion made for it."""
        self._built[id(part)] = found
        if not isinstance(part.state, dict):
            raise refused(f"a {part.what} without attributes")
        state = {key: self.value(value, depth) for key, value in part.state.items()}
        for key, value in state.items():
            _check_attribute(kind, key, value)
        if isinstance(found, nn.Module):
            _check_module(part.what, kind, state)
            found.__setstate__(state)  # type: ignore[no-untyped-call] # reviewed: see allowed
        else:
            found.__dict__.update(state)
            converted.check_record(found)

    def _trusted(self, part: Made, kind: Any, depth: int) -> None:
        """Make an instance as pickle does; the user allowed its class with `--allow`."""
        args = tuple(self.value(item, depth) for item in part.args)
        found = kind(*args) if part.call else kind.__new__(kind, *args)
        self._built[id(part)] = found
        if part.items:
            found.extend([self.value(item, depth) for item in part.items])
        for key, value in part.pairs:
            found[self.value(key, depth)] = self.value(value, depth)
        if part.state is NOTHING:
            return
        state = self.value(part.state, depth)
        if isinstance(found, nn.Module) and isinstance(state, dict):
            for key, value in state.items():
                _check_attribute(kind, key, value)
            _check_module(part.what, kind, state)
        if hasattr(found, "__setstate__"):
            found.__setstate__(state)
            return
        attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        found.__dict__.update(attributes or {})
        for key, value in (slots or {}).items():
            setattr(found, key, value)

    # --- tensors ---

    def tensor(self, part: Made, depth: int) -> Tensor:
        """Build a tensor or a parameter; its extent must lie within its storage."""
        if part.state is not NOTHING or part.items or part.pairs:
            raise refused("a tensor with a state of its own")
        name, args = part.what.name, part.args
        if name == "_rebuild_from_type_v2":
            made = self.tensor(tensor_with_attributes(part), depth)
            self._tensor_attributes(made, args[3], depth)
            return made
        if name.startswith("_rebuild_parameter"):
            data = args[0] if args else None
            stateful = name.endswith("_with_state")
            if len(args) != 3 + stateful or not isinstance(data, Made) or data.what.name not in TENSOR_NAMES:
                raise refused("a parameter that is no tensor")
            if not is_empty(args[2]):
                raise refused("a parameter with hooks")
            parameter = nn.Parameter(self.value(data, depth), requires_grad=flag(args[1]))
            if stateful:
                self._tensor_attributes(parameter, args[3], depth)
            return parameter
        dtype, storage, offset, size, stride, grad = tensor_layout(part)
        bytes_ = self._storages(storage_key(storage))
        if offset * dtype.itemsize + extent(size, stride) * dtype.itemsize > bytes_.nbytes():
            raise refused("a tensor that reaches beyond its storage")
        self._left -= numel(size) * dtype.itemsize
        if self._left < 0:
            raise refused("tensors that take far more memory than the file holds")
        found = torch.empty(0, dtype=dtype).set_(bytes_, offset, size, stride)
        return found.requires_grad_() if grad and (dtype.is_floating_point or dtype.is_complex) else found

    def _tensor_attributes(self, tensor: Tensor, state: Any, depth: int) -> None:
        attributes = self.value(state, depth)
        if isinstance(attributes, tuple) and len(attributes) == 2 and not attributes[1]:  # no slots
            attributes = attributes[0]
        if not isinstance(attributes, dict) or any(type(k) is not str or hasattr(Tensor, k) for k in attributes):
            raise refused("a tensor whose attributes shadow those of torch")
        if any(callable(value) for value in attributes.values()):
            raise refused("a tensor that keeps a function")
        tensor.__dict__.update(attributes)


def _plain_call(name: str, args: tuple[Any, ...]) -> Any:
    kinds = tuple(type(arg) for arg in args)
    if name in ("set", "frozenset") and kinds in ((), (list,), (tuple,)):
        return {"set": set, "frozenset": frozenset}[name](*args)
    if name == "bytearray" and kinds in ((), (bytes,)):
        return bytearray(*args)
    if name == "complex" and kinds == (float, float):
        return complex(*args)
    if name == "slice" and len(args) == 3:
        return slice(*args)
    if name == "encode" and kinds == (str, str) and args[1] in ("latin1", "latin-1"):
        return args[0].encode("latin1")
    if name == "Size" and kinds == (tuple,) and all(type(n) is int for n in args[0]):
        return torch.Size(args[0])
    if name == "device" and kinds in ((str,), (str, int)):
        return torch.device(*args)
    if name == "_get_layout" and args == ("torch.strided",):
        return torch.strided
    raise refused(f"a call of {name} with other arguments than torch writes")


def _check_attribute(kind: type, key: Any, value: Any) -> None:
    """Refuse an attribute that would hide a method of the class, and a callable that would hide data of it."""
    if type(key) is not str or (key.startswith("__") and key.endswith("__")):
        raise refused(f"the attribute {str(key)[:40]!r}")
    default = _static(kind, key)
    if key == "type" and type(value) is str:  # ultralytics and YOLOv5 keep the name of each layer's class so
        return
    if default is not NOTHING and (not isinstance(default, _DEFAULTS) or callable(value)):
        raise refused(f"the attribute {key!r} of a {kind.__name__}, in front of the one of its class")
    if key.endswith(("_implementation", "_implementation_internal")) and not (
        value is None or (isinstance(value, str) and _IMPLEMENTATION.fullmatch(value))
    ):
        raise refused(f"{key} = {str(value)[:60]!r}, which transformers would fetch")
    if _HOOKS.fullmatch(key) and value:
        raise refused(f"{key} of a {kind.__name__}: hooks are programs")


def _static(kind: type, key: str) -> Any:
    return next((vars(base)[key] for base in kind.__mro__ if key in vars(base)), NOTHING)


def _check_tree(modules: list[nn.Module]) -> None:
    """Refuse modules that hold themselves, or so many paths to shared ones that `model.eval()` would not end."""
    paths: dict[int, int] = {}
    for module in modules:
        waiting = [module]
        while waiting:
            top = waiting[-1]
            inside = {id(child): child for child in top._modules.values() if child is not None}
            missing = [child for key, child in inside.items() if key not in paths]
            if id(top) in paths and paths[id(top)] > 0:
                waiting.pop()
            elif not missing:
                paths[id(top)] = 1 + sum(paths[key] for key in inside)
                waiting.pop()
            else:
                paths[id(top)] = 0  # begun
                waiting.extend(missing)
            if any(paths.get(key) == 0 for key in inside) or paths.get(id(top), 0) > MAX_PATHS:
                raise refused("it holds modules inside themselves, or shared in too many ways")


def _check_module(name: Name, kind: type, state: dict[str, Any]) -> None:
    wanted = (("_parameters", Tensor), ("_buffers", Tensor), ("_modules", nn.Module))
    for key, of in wanted:
        table = state.get(key)
        if not isinstance(table, dict) or not all(isinstance(v, of) or v is None for v in table.values()):
            raise refused(f"a {name} whose {key} are missing or of another type")
        if not all(type(k) is str and "." not in k for k in table):
            raise refused(f"a {name} with odd names in its {key}")
    if issubclass(kind, nn.RNNBase):  # its __setstate__ reads these
        layers, names = state.get("num_layers"), state.get("_flat_weights_names")
        known = isinstance(names, list) and all(n in state["_parameters"] for n in names)
        if type(layers) is not int or not 0 < layers <= len(state["_parameters"]) or not known:
            raise refused(f"a {name} whose layers are not those of its weights")
    hooks = ("_backward_hooks", "_forward_hooks", "_forward_pre_hooks")  # nn.Module adds the others itself
    if not isinstance(state.get("training"), bool) or not all(isinstance(state.get(key), dict) for key in hooks):
        raise refused(f"a {name} without a mode, or without its empty hooks")
