"""What each activation would do at each site, guessed from one forward and backward pass of the network.

With g the gradient of the loss at the output of a site, and f the activation that is to stand there,

    score = sum g (f(x) - source(x))  -  rate * |d loss / d parameters of f|^2

is the loss that the exchange adds, to first order, less what one step of gradient descent on the activation's own
parameters takes away. Lower is better; keeping the site scores 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from actswap.activations.morph import Morph
from actswap.capture.evaluating import modes_kept
from actswap.conversion.pipeline import convert
from actswap.conversion.survey import Sites
from actswap.search.site_costs import KEEP
from actswap.sites import Site
from actswap.train.data import Loss


def one_pass_scores(
    model: nn.Module,
    sites: Sequence[Site],
    choices: Sequence[str],
    example: Any,
    batch: tuple[Any, Tensor],
    loss: Loss | None = None,
    rate: float = 0.01,
    scanned: Sites | None = None,
) -> Mapping[tuple[str, str], float]:
    """Score every choice at every site.

    Args:
        model: the network; not changed.
        sites: the sites.
        choices: targets, and `keep`.
        example: inputs on which the network was scanned.
        batch: inputs and labels, of any number; the starts are fitted on the inputs.
        loss: of an output and labels; None is the cross entropy.
        rate: learning rate of the one step.
        scanned: what `scan` returned for the model, if it was scanned.

    Returns:
        Score by (name of the site, choice).
    """
    names = [site.name for site in sites]
    x, target = batch
    scores = {
        (name, choice): 0.0 for name in names for choice in (KEEP, *choices)
    }  # also of a site that has it already
    seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for choice in (c for c in choices if c != KEEP):
        done = convert(model, choice, example, only=names, calibration=[x], verify=False, scanned=scanned)
        units = {c.site.name: done.model.get_submodule(c.path) for c in done.plan.choices}
        fresh = {name: unit for name, unit in units.items() if name not in seen}
        if fresh:  # the gradients are those of the network as it is, whatever the choice
            seen |= _observed(done.model, fresh, x, target, loss or F.cross_entropy)
        for name, unit in units.items():
            scores[name, choice] = _score(unit, *seen[name], rate)
    return scores


def _observed(
    model: nn.Module, units: Mapping[str, nn.Module], x: Any, target: Tensor, loss: Loss
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return what goes in, what comes out, and the gradient of the loss at that, for each site."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def record(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            inputs[name], outputs[name] = args[0].detach(), output
            return output

        return record

    handles = [unit.register_forward_hook(hook(name)) for name, unit in units.items()]
    try:
        with modes_kept(model), torch.enable_grad():
            model.eval()
            value = loss(model(x), target)
            names = list(outputs)
            gradients = torch.autograd.grad(value, [outputs[n] for n in names], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    zero = {n: torch.zeros_like(outputs[n]) for n in names}
    return {
        n: (inputs[n], outputs[n].detach(), g if g is not None else zero[n])
        for n, g in zip(names, gradients, strict=True)
    }


def _score(unit: nn.Module, x: Tensor, before: Tensor, gradient: Tensor, rate: float) -> float:
    inner = unit.target if isinstance(unit, Morph) else unit
    parameters = [p for p in inner.parameters() if p.requires_grad]
    with torch.enable_grad():
        after = inner(x)
        added = float((gradient * (after.detach() - before)).sum())
        if not parameters:
            return added
        slopes = torch.autograd.grad(after, parameters, gradient, allow_unused=True)
    return added - rate * sum(float(s.square().sum()) for s in slopes if s is not None)
