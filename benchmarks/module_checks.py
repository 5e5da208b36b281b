"""What a converted network must still do: everything that the original does, in every mode.

Outputs in eval and train mode, after every parameter has moved, and after attributes have changed; gradients of every
original parameter and of the input; dtypes under autocast; what the forward leaves outside the model. With
`start="morph"` the converted network computes the same function, so all of it must agree up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from written_modules import CALLS, KEPT

import actswap
from actswap.errors import ActswapError

# Rounding: a few hundred float32 operations, each within 6e-8, on values of order one; relative to the largest value.
ROUNDING = 1e-4
CHANGES: tuple[tuple[str, Any], ...] = (("k", 3.0), ("drop", 0.5), ("_Written__hidden", -1.0))


def check(model: nn.Module, x: Tensor, target: str = "acon_c") -> str:
    """Convert a network and compare all that it does with the original.

    Returns:
        `converted`, or `refused: ` and the error, if actswap says in words why it cannot.

    Raises:
        AssertionError: something is lost.
    """
    before = [v.clone() for v in model.state_dict().values()]
    KEPT.clear()
    try:
        result = actswap.convert(model, target, x, start="morph")
    except ActswapError as error:
        assert error.what, "a refusal without words"
        return f"refused: {error.what.partition(' in ')[0]}"
    finally:
        assert all(type(kept) is Tensor for kept in KEPT), "a proxy in the user's list"
    assert all(entry.reason for entry in result.report.left)
    assert result.report.census is not None and result.report.census.complete
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True)), "original changed"
    compare(model, result.model, x)
    back = actswap.revert(result.model)
    assert list(back.state_dict()) == list(model.state_dict())
    assert torch.equal(_output(back.eval(), x), _output(model.eval(), x)), "revert is not bit-exact"
    return "converted"


def compare(original: nn.Module, converted: nn.Module, x: Tensor) -> None:
    """Hold one network to what the other does.

    Raises:
        AssertionError: they differ.
    """
    same(original, converted, x, "eval")
    same(copy.deepcopy(original), copy.deepcopy(converted), x, "deepcopy")
    gradients(copy.deepcopy(original).train(), copy.deepcopy(converted).train(), x)
    same(_moved(original), _moved(converted), x, "parameters moved")
    changed = [_with_changes(copy.deepcopy(m)) for m in (original, converted)]
    same(*changed, x, "attributes changed")
    changed = [_with_flip(m) for m in changed]
    same(*changed, x, "attributes changed, the other branch", exact=False)
    one, other = _dtypes(original, x), _dtypes(converted, x)
    assert one == {k: v for k, v in other.items() if k in one}, f"dtypes under autocast: {one} and {other}"


def same(one: nn.Module, other: nn.Module, x: Tensor, what: str, exact: bool = True) -> None:
    """Compare outputs, and what the forwards leave outside."""
    a, b = (_run(m, x) for m in (one, other))
    assert a[1:] == b[1:], f"{what}: side effects {a[1:]} and {b[1:]}"
    error = float((a[0] - b[0]).abs().max() / a[0].abs().max().clamp(min=1e-3))
    assert error <= ROUNDING, f"{what}: outputs differ by {error:.1e}"


def gradients(one: nn.Module, other: nn.Module, x: Tensor) -> None:
    """Compare outputs in train mode, and the gradient of every parameter that both have, and of the input.

    An original whose in-place calls spoil its own backward pass has none to compare.
    """
    found = []
    for model in (one, other):
        torch.manual_seed(0)
        start = x.clone().requires_grad_()
        out = model(start)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        if out.requires_grad:
            try:
                (out * weight).sum().backward()
            except RuntimeError:
                if model is one:
                    return
                raise
        found.append((out.detach(), {"input": start.grad, **{n: p.grad for n, p in model.named_parameters()}}))
    (a, of_one), (b, of_other) = found
    error = float((a - b).abs().max() / a.abs().max().clamp(min=1e-3))
    assert error <= ROUNDING, f"train: outputs differ by {error:.1e}"
    for name in of_one.keys() & of_other.keys():
        p, q = of_one[name], of_other[name]
        assert (p is None) == (q is None), f"{name} has {'lost' if q is None else 'gained'} its gradient"
        if p is not None and q is not None:
            error = float((p - q).abs().max() / p.abs().max().clamp(min=1e-2))
            assert error <= 10 * ROUNDING, f"gradient of {name} differs by {error:.1e}"
    missing = {n for n in of_one if n not in of_other and not _of_an_activation(one, n)}
    assert not missing, f"parameters are gone: {missing}"


def _of_an_activation(model: nn.Module, name: str) -> bool:
    """The parameters of a module that is an activation go with it: PReLU's slopes, a Swish's beta."""
    return type(model.get_submodule(name.rpartition(".")[0])).__name__ in ("PReLU", "Beta")


def _run(model: nn.Module, x: Tensor) -> tuple[Tensor, int, int, list[int]]:
    KEPT.clear()
    CALLS["n"] = 0
    counts = [int(getattr(m, "count", 0)) for m in model.modules() if hasattr(m, "count")]
    out = _output(model, x)
    after = [int(m.count) for m in model.modules() if hasattr(m, "count")]  # type: ignore[arg-type]
    assert all(type(kept) is Tensor for kept in KEPT), "a proxy in the user's list"
    return out, len(KEPT), CALLS["n"], [b - a for a, b in zip(counts, after, strict=True)]


def _output(model: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        out: Tensor = model(x)
    return out


def _moved(model: nn.Module) -> nn.Module:
    """Move every parameter, by its name: the same in both networks."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            seed = sum(map(ord, name))
            noise = torch.randn(p.numel(), generator=torch.Generator().manual_seed(seed)).reshape(p.shape)
            if "source" not in name and not _new(model, name):
                p.mul_(1.1).add_(0.1 * noise)
    return model


def _new(model: nn.Module, name: str) -> bool:
    """True for the parameters of the new activations, and of those that they replaced in the original."""
    path = name.rpartition(".")[0]
    around = (
        [model.get_submodule(".".join(path.split(".")[: i + 1])) for i in range(len(path.split(".")))] if path else []
    )
    return any(type(m).__module__.startswith("actswap.") or type(m).__name__ in ("PReLU", "Beta") for m in around)


def _with_changes(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for name, value in CHANGES:
            if name in vars(module):
                setattr(module, name, value)
    return model


def _with_flip(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if "flip" in vars(module):
            module.flip = not module.flip  # type: ignore[assignment]
    return model


def _dtypes(model: nn.Module, x: Tensor) -> dict[str, list[torch.dtype]]:
    """Dtypes that every module returns under autocast, by name."""
    found: dict[str, list[torch.dtype]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, out: found.setdefault(name, []).append(out.dtype)

    hooks = [m.register_forward_hook(note(n)) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found
