"""Pass `reinstall`: give a module that was read from a pickle the methods it had.

Requires: the module's own class, and the text that `capture/installed.py` put into the pickle: which expressions of its
source are exchanged, or how its forward is traced. Ensures: the same computation, made anew from the class as it is
today; neither code nor source is taken from the file.

Cases:
1. Expressions were exchanged: at once. If the source has changed since, calling the method raises CaptureError; the
   weights can be read and the conversion reverted all the same.
2. The forward was traced: at the first call, when the children stand. The trace must show the same activation calls.
3. An attribute was fixed (torch's fused kernels): at once.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any

from torch import nn

from actswap.capture.installed import EXCHANGED, Origin, subclass
from actswap.capture.island import keep_constants, trace
from actswap.capture.rewrite import members_of, rewritten
from actswap.capture.same_signature import same_signature
from actswap.conversion.passes.traced_forward import local, traced_forward_of
from actswap.errors import CaptureError, UsageError
from actswap.plan import Choice, Island, Plan
from actswap.sites import Start

_FIXED = {"activation_relu_or_gelu": 0, "use_nested_tensor": False}
_lock = threading.RLock()


def origin_of(members: Iterable[str], island: Island, choices: Sequence[Choice]) -> Origin:
    """Describe the methods of an island."""
    names = list(members)

    def data() -> dict[str, Any]:
        bare = tuple(dataclasses.replace(c, histogram=None, options={}, start=Start("none")) for c in choices)
        return {"members": names, "plan": Plan("", bare, (), (island,), "", "").to_dict()}

    return Origin(data, reinstalled)


def origin_of_fixed(name: str, value: object) -> Origin:
    """Describe an attribute that keeps its value."""
    return Origin(lambda: {"fixed": {name: value}}, reinstalled)


def fixed_attribute(value: object) -> property:
    """Return an attribute that keeps this value, whatever is assigned to it."""
    return property(lambda self: value, lambda self, new: None)


def reinstalled(base: type[nn.Module], text: str) -> nn.Module:
    """Return an empty instance with the methods that a text describes; pickles of converted modules call this by name.

    Args:
        base: the user's class.
        text: JSON, the layers of installed methods from the innermost.

    Raises:
        UsageError: the text is none that this version reads.
    """
    kind = class_with(base, text)
    return kind.__new__(kind)


def class_with(base: type[nn.Module], text: str) -> type[nn.Module]:
    """Return the subclass of `base` with the methods that a text describes.

    Raises:
        UsageError: the text is none that this version reads.
    """
    try:
        kind: type[nn.Module] = base
        layers = json.loads(text)
        if not isinstance(layers, list):
            raise ValueError(f"a {type(layers).__name__}")
        for layer in layers:
            kind = _fixed(kind, layer["fixed"]) if "fixed" in layer else _with_methods(kind, layer)
        return kind
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the saved {base.__name__} does not say how it was converted",
            why=f"{type(error).__name__}: {error}",
            fix="save it again with this version of actswap, or save bundles: actswap.save(model, 'folder')",
        ) from error


def _fixed(base: type[nn.Module], values: Mapping[str, object]) -> type[nn.Module]:
    if any(name not in _FIXED or _FIXED[name] != value for name, value in values.items()):
        raise ValueError(f"fixed attributes {dict(values)}")
    return subclass(
        base,
        {name: fixed_attribute(value) for name, value in values.items()},
        Origin(lambda: {"fixed": dict(values)}, reinstalled),
    )


def _with_methods(base: type[nn.Module], layer: Mapping[str, Any]) -> type[nn.Module]:
    plan = Plan.from_dict(layer["plan"])
    (island,), names = plan.islands, [str(name) for name in layer["members"]]
    chosen = {c.site.ordinal: c for c in plan.choices}
    methods: dict[str, Any]
    if island.rewrites:
        methods = _exchanged(base, island, chosen, names)
    else:
        methods = {name: _at_first_call(base, name, island, chosen) for name in names}
    exchanged = {inspect.getattr_static(base, name, None): method for name, method in methods.items()}
    return subclass(base, {**methods, EXCHANGED: exchanged}, origin_of(names, island, plan.choices))


def _exchanged(
    base: type[nn.Module], island: Island, chosen: Mapping[int, Choice], names: Sequence[str]
) -> dict[str, Any]:
    """Case 1."""
    owner = base.__new__(base)
    try:
        made = rewritten(owner, island.rewrites, {o: local(c.path, island) for o, c in chosen.items()})
        members = members_of(base, made)
        if set(names) - set(members):
            raise CaptureError(f"{base.__name__} has no method {', '.join(set(names) - set(members))}")
        return {name: members[name] for name in names}
    except CaptureError as error:
        return {name: _refusing(base, name, error) for name in names}


def _refusing(base: type[nn.Module], name: str, error: CaptureError) -> Callable[..., Any]:
    def call(owner: nn.Module, args: Any, kwargs: Any) -> Any:
        raise CaptureError(
            f"this {base.__name__} cannot run as it was converted",
            why=f"{error.what}{f': {error.why}' if error.why else ''}",
            fix="actswap.revert(model) gives the network without the conversion; convert that again",
        ) from error

    return same_signature(getattr(base, name, call), call)


def _at_first_call(base: type[nn.Module], name: str, island: Island, chosen: Mapping[int, Choice]) -> FunctionType:
    """Case 2."""
    made: list[Callable[..., Any]] = []

    def call(owner: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        with _lock:
            if not made:
                made.append(_traced(owner, base, island, chosen))
        return made[0](owner, *args, **kwargs)

    return same_signature(getattr(base, name), call)


def _traced(
    owner: nn.Module, base: type[nn.Module], island: Island, chosen: Mapping[int, Choice]
) -> Callable[..., Any]:
    as_before = base.__new__(base)  # the same module, still with the methods below
    as_before.__dict__.update(vars(owner))
    for table in ("_parameters", "_buffers", "_modules"):
        as_before.__dict__[table] = dict(vars(owner)[table])
    try:
        traces = [trace(as_before, arguments, frozenset(island.inline), strict=False) for arguments in island.calls]
        forward, constants = traced_forward_of(as_before, island, chosen, traces)
    except CaptureError as error:
        return _refusing(base, "forward", error)
    keep_constants(owner, {k: v for k, v in constants.items() if k not in owner._buffers})
    return forward
