"""Parity: whether two models compute the same on the same inputs, and the first site that differs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from actswap.activations.hooks import hooked
from actswap.capture.evaluating import evaluating
from actswap.capture.observe import tensors_of
from actswap.checks.check import Proof
from actswap.checks.signal import Signal, as_real, few, more_runs, signals_of
from actswap.errors import UsageError, first_line
from actswap.inputs import as_inputs


@dataclass(frozen=True)
class Parity:
    """How far the outputs of two models are apart.

    Attributes:
        max_abs: largest absolute difference of any output element.
        rel: error of the worst output, relative to how much it varies (see `signal`): the largest of 2-norm, maximum
            norm and worst feature. For an output of integers, the share that differs.
        top1_agreement: share of samples with the same largest class, if an output is (samples, classes).
        first_divergent_site: first module, in the order of execution, whose outputs differ by more than `rel` allows;
            None if the outputs agree.
        outputs: number of output tensors compared.
        rel_to_size: the larger of |a-b| / |a| in the maximum norm and in the 2-norm, worst output; says nothing about
            the signal of an output with a large constant part.
        spread: standard deviation of the output that is worst.
        rounding: the `rel` of a few roundings of the outputs; a smaller error cannot be measured.
        note: a remark if an output is constant or one number.
        proof: the checks beside the outputs, if they were made.
    """

    max_abs: float
    rel: float
    top1_agreement: float | None
    first_divergent_site: str | None = None
    outputs: int = 1
    rel_to_size: float = 0.0
    spread: float = 0.0
    rounding: float = 0.0
    note: str = ""
    proof: Proof | None = None

    def within(self, tolerance: float) -> bool:
        """Return True if the outputs agree to the tolerance, or to their own rounding."""
        return self.rel <= max(tolerance, self.rounding)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        data = asdict(replace(self, proof=None))
        del data["proof"]
        return data if self.proof is None else {**data, "proof": self.proof.to_dict()}


def run(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> list[Tensor]:
    """Run a model in eval mode without gradients; return copies of the tensors of its output."""
    with evaluating(model):
        return [t.detach().clone() for t in tensors_of(model(*args, **dict(kwargs or {})))]


def compare(a: Sequence[Tensor], b: Sequence[Tensor], signals: Sequence[Signal] | None = None) -> Parity:
    """Compare two lists of outputs.

    Args:
        a: the reference.
        b: what is compared with it.
        signals: how each output of `a` varies; by default this is estimated from `a` itself.

    Returns:
        The parity; infinitely apart if shapes or the places of NaN and infinity differ.
    """
    apart = Parity(math.inf, math.inf, None, outputs=len(a), rel_to_size=math.inf)
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return apart
    signals = signals_of([a]) if signals is None else signals
    max_abs, to_size, agree, rounding = 0.0, 0.0, None, 0.0
    worst_rel, spread = -1.0, 0.0
    for x, y, signal in zip(a, b, signals, strict=True):
        if x.numel() == 0 or x.is_meta:
            continue
        if not (x.is_floating_point() or x.is_complex()):
            different = float((x != y).double().mean())
            max_abs, to_size, worst_rel = max(max_abs, different), max(to_size, different), max(worst_rel, different)
            continue
        x64, y64 = as_real(x), as_real(y)
        same = (x64 == y64) | (x64.isnan() & y64.isnan())
        delta = torch.where(same, torch.zeros_like(x64), (x64 - y64).abs()) if x64.shape == y64.shape else None
        if delta is None or not delta.isfinite().all():
            return replace(apart, top1_agreement=agree)
        rel, rounding = signal.error(delta), max(rounding, signal.largest_rounding)
        if rel > worst_rel:
            worst_rel, spread = rel, signal.spread
        finite = torch.where(x64.isfinite(), x64, torch.zeros_like(x64))
        max_abs = max(max_abs, float(delta.max()))
        for top, scale in ((delta.max(), finite.abs().max()), (delta.norm(), finite.norm())):
            to_size = max(to_size, float(top / scale) if float(scale) > 0 else float(top))
        if agree is None and x.dim() == 2 and x.shape[1] > 1 and not x.is_complex():
            agree = float((x64.argmax(1) == y64.argmax(1)).double().mean())
    note = "; ".join(dict.fromkeys(s.note for s in signals if s.note))
    return Parity(max_abs, max(worst_rel, 0.0), agree, None, len(a), to_size, spread, rounding, note)


def worst(parities: Iterable[Parity]) -> Parity:
    """Return the parity over several inputs: the largest errors, the lowest agreement."""
    found = list(parities)
    agreements = [p.top1_agreement for p in found if p.top1_agreement is not None]
    return replace(
        max(found, key=lambda p: p.rel),
        max_abs=max(p.max_abs for p in found),
        rel_to_size=max(p.rel_to_size for p in found),
        rounding=max(p.rounding for p in found),
        top1_agreement=min(agreements) if agreements else None,
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
        The parity; `first_divergent_site` is looked for only if `rel` exceeds the tolerance.

    Raises:
        UsageError: a model does not run on the inputs.
    """
    args, named = as_inputs(inputs, kwargs)
    outs: list[list[Tensor]] = []
    for label, model in (("first", a), ("second", b)):
        try:
            outs.append(run(model, args, named))
        except Exception as error:
            raise UsageError(
                f"the {label} model does not run on these inputs",
                where=type(model).__name__,
                why=first_line(error),
                fix="verify(a, b, torch.randn(1, 3, 224, 224)) with inputs that both accept",
            ) from error
    others = more_runs(lambda *call: run(a, *call), args, named, outs[0])
    signals = signals_of([outs[0], *(found for _, found in others)])
    pairs = [(outs[0], outs[1]), *((found, run(b, *call)) for call, found in others if few(outs[0]))]
    parity = worst(compare(x, y, signals) for x, y in pairs)
    if parity.within(tolerance):
        return parity
    return replace(parity, first_divergent_site=_first_divergent(a, b, args, named, tolerance))


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

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            k = counts[name] = counts.get(name, -1) + 1
            seen[name, k] = [t.detach().clone() for t in tensors_of(output)]

        return hook

    watched = [(name, module) for name, module in model.named_modules() if name in names]
    with hooked(m.register_forward_hook(watch(n)) for n, m in watched), evaluating(model):
        model(*args, **kwargs)
    return seen
