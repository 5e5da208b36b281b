"""Names that a pickle may use lead to the class of that very name, and to nothing that could run the file's wishes."""

from __future__ import annotations

import collections

import pytest
import torch
from torch import nn

from actswap.errors import LoadError
from actswap.io.allowed import CONTAINERS, FUNCTIONS, STORAGES, TENSORS, WEIGHTS_ONLY, class_of, is_under, value_of
from actswap.io.pickles import Name


@pytest.mark.parametrize(
    ("module", "name", "found"),
    [
        ("torch.nn.modules.conv", "Conv2d", nn.Conv2d),
        ("torch.nn.modules.activation", "MultiheadAttention", nn.MultiheadAttention),
        ("torch", "float16", torch.float16),
        ("torch", "channels_last", torch.channels_last),
        ("torch.nn.functional", "relu", nn.functional.relu),
        ("torch._C._nn", "gelu", torch._C._nn.gelu),
    ],
)
def test_names_of_torch_lead_to_its_own_things(module: str, name: str, found: object) -> None:
    assert value_of(Name(module, name), ()) is found


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch.nn.modules.module", "os"),
        ("torch.nn.modules.conv", "Conv2d.forward"),
        ("torch.nn.modules.conv", "F"),
        ("torch.nn.modules.module", "register_module_forward_hook"),
        ("torch.fx.graph_module", "GraphModule"),
        ("torch.hub", "load"),
        ("torch", "load"),
        ("torch.nn", "Conv2d"),
        ("torch.nn.modules.activation", "Linear"),
        ("torch.nn.modules.conv.torch", "load"),
        ("subprocess", "Popen"),
    ],
)
def test_everything_else_is_refused_with_its_name(module: str, name: str) -> None:
    with pytest.raises(LoadError, match=f"{module}.{name}"):
        value_of(Name(module, name), ())


def test_a_package_is_allowed_for_its_classes_only() -> None:
    name = Name("collections", "UserDict")
    with pytest.raises(LoadError, match="--allow collections"):
        class_of(name, ())
    assert class_of(name, ("collections",)) is collections.UserDict
    with pytest.raises(LoadError, match="it is a function"):
        class_of(Name("collections", "namedtuple"), ("collections",))
    with pytest.raises(LoadError, match="is not on the list"):
        class_of(Name("collectionsx", "UserDict"), ("collections",))
    assert is_under("a.b", ("a",)) and not is_under("ab", ("a",)) and is_under("a", ("a",))


def test_a_class_that_is_not_there_says_what_to_install() -> None:
    with pytest.raises(LoadError, match="install the torch"):
        class_of(Name("torch.nn.modules.conv", "Conv9d"), ())
    with pytest.raises(LoadError, match="install the timm"):
        class_of(Name("timm.models.of_tomorrow", "Net"), ())


def test_the_lists_hold_what_they_say() -> None:
    """Names exist; functions take and give tensors; weights need no class at all."""
    assert all(callable(function) for function in FUNCTIONS.values())
    assert TENSORS <= WEIGHTS_ONLY and WEIGHTS_ONLY <= TENSORS | CONTAINERS
    assert STORAGES["FloatStorage"] is torch.float32 and STORAGES["BFloat16Storage"] is torch.bfloat16
    for module, name in TENSORS:
        assert hasattr(torch._utils if module == "torch._utils" else torch._tensor, name)
