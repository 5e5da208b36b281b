"""Parity: do two models compute the same on the same inputs, and where do they part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actswap.capture.evaluating import evaluating
from actswap.capture.observe import tensors_of
from actswap.errors import UsageError
from actswap.inputs import as_inputs


@dataclass(frozen=True)
class Parity:
    """How far the outputs of two models are apart.

    Attributes:
        max_abs: largest absolute difference of any output element.
        rel: relative error, the larger of |a-b| / |a| in the maximum norm and in the 2-norm, worst output.
        top1_agreement: share of samples with the same largest class, where an output is (samples, classes).
        first_divergent_site: first module, in the order of execution, whose outputs differ by more than `rel` allows;
            None where the outputs agree.
        outputs: number of output tensors compared.
    """

    max_abs: float
    rel: float
    top1_agreement: float | None
    first_divergent_site: str | None = None
    outputs: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def run(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> list[Tensor]:
    """Run a model in eval mode without gradients; the tensors of its output, copied."""
    with evaluating(model):
        return [t.detach().clone() for t in tensors_of(model(*args, **dict(kwargs or {})))]


def compare(a: list[Tensor], b: list[Tensor]) -> Parity:
    """Compare two lists of outputs; `a` is the reference."""
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return Parity(float("inf"), float("inf"), None, outputs=len(a))
    max_abs, rel, agree = 0.0, 0.0, None
    for x, y in zip(a, b, strict=True):
        if x.numel() == 0 or x.is_meta:
            continue
        if x.is_complex() and y.is_complex():
            x, y = torch.view_as_real(x.resolve_conj()), torch.view_as_real(y.resolve_conj())
        if not x.is_floating_point():
            different = float((x != y).double().mean())
            max_abs, rel = max(max_abs, different), max(rel, different)
            continue
        x64, y64 = x.double().cpu(), y.double().cpu()
        same = (x64 == y64) | (x64.isnan() & y64.isnan())
        delta = torch.where(same, torch.zeros_like(x64), (x64 - y64).abs())
        if not delta.isfinite().all():
            return Parity(float("inf"), float("inf"), agree, outputs=len(a))
        finite = torch.where(x64.isfinite(), x64, torch.zeros_like(x64))
        max_abs = max(max_abs, float(delta.max()))
        for top, scale in ((delta.max(), finite.abs().max()), (delta.norm(), finite.norm())):
            rel = max(rel, float(top / scale) if float(scale) > 0 else float(top))
        if agree is None and x.dim() == 2 and x.shape[1] > 1:
            agree = float((x64.argmax(1) == y64.argmax(1)).double().mean())
    return Parity(max_abs, rel, agree, outputs=len(a))


def worst(parities: Iterable[Parity]) -> Parity:
    """Return the parity over several inputs: the largest errors, the lowest agreement."""
    found = list(parities)
    agreements = [p.top1_agreement for p in found if p.top1_agreement is not None]
    return Parity(
        max(p.max_abs for p in found),
        max(p.rel for p in found),
        min(agreements) if agreements else None,
        outputs=found[0].outputs,
    )


def verify(
    a: nn.Module, b: nn.Module, inputs: Any, kwargs: Mapping[str, Any] | None = None, tolerance: float = 1e-3
) -> Parity:
    """Run two models on the same inputs, in eval mode, and compare what comes out.

    Args:
        a: the reference.
        b: the other model, e.g. the converted one.
        inputs: a tensor, a tuple of arguments, or a dict of keyword arguments.
        kwargs: keyword arguments.
        tolerance: relative error from which a module counts as divergent.

    Returns:
        The parity; `first_divergent_site` is looked for only where `rel` exceeds the tolerance.

    Raises:
        UsageError: a model does not run on the inputs.
    """
    args, named = as_inputs(inputs, kwargs)
    outs = []
    for label, model in (("first", a), ("second", b)):
        try:
            outs.append(run(model, args, named))
        except Exception as error:
            raise UsageError(
                f"the {label} model does not run on these inputs",
                where=type(model).__name__,
                why=f"{type(error).__name__}: {error}",
                fix="verify(a, b, torch.randn(1, 3, 224, 224)) with inputs that both accept",
            ) from error
    parity = compare(*outs)
    if parity.rel <= tolerance:
        return parity
    return Parity(
        parity.max_abs,
        parity.rel,
        parity.top1_agreement,
        _first_divergent(a, b, args, named, tolerance),
        parity.outputs,
    )


def _first_divergent(
    a: nn.Module, b: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], tolerance: float
) -> str | None:
    """Name the first module, in order of completion, whose output differs; what lies inside it is named first."""
    common = set(dict(a.named_modules())) & set(dict(b.named_modules())) - {""}
    seen_a = _outputs(a, common, args, kwargs)
    seen_b = _outputs(b, common, args, kwargs)
    for (name, k), out in seen_a.items():
        other = seen_b.get((name, k))
        if other is not None and compare(out, other).rel > tolerance:
            return name
    return None


def _outputs(
    model: nn.Module, names: set[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[tuple[str, int], list[Tensor]]:
    seen: dict[tuple[str, int], list[Tensor]] = {}
    counts: dict[str, int] = {}
    handles = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            k = counts[name] = counts.get(name, -1) + 1
            seen[name, k] = [t.detach().clone() for t in tensors_of(output)]

        return hook

    for name, module in model.named_modules():
        if name in names:
            handles.append(module.register_forward_hook(watch(name)))
    try:
        with evaluating(model):
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return seen
