"""Distillation from the original network: its logits, and what each site puts out."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from actswap.activations.base import Activation
from actswap.activations.hooks import hooked
from actswap.errors import UsageError
from actswap.record import plan_of


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence of the softened outputs, times T^2.

    The factor T^2 keeps the size of the gradient independent of T.

    Source: Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network, section 2.

    Args:
        student: logits (N, K).
        teacher: logits (N, K).
        temperature: T of both softmaxes.
    """
    log_p = functional.log_softmax(student.float() / temperature, dim=1)
    log_q = functional.log_softmax(teacher.float() / temperature, dim=1)
    return functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


def paired_modules(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Name the modules whose outputs are compared.

    For a converted network these are the modules of the replaced sites. A swapped module has its counterpart under
    the same name. If the site was a function or a module that is called several times, the counterpart is the
    innermost module that encloses it in both networks. For a network that was written with trainable activations,
    they are those activations.
    """
    known = {name for name, _ in teacher.named_modules() if name}
    plan = plan_of(student)
    if plan is not None:
        sites = [choice.path for choice in plan.choices]
    else:
        sites = [name for name, module in student.named_modules() if isinstance(module, Activation)]
    chosen: dict[str, None] = {}
    for name in sites:
        while name and name not in known:
            name = name.rpartition(".")[0]
        if name:
            chosen[name] = None
    return list(chosen)


class FeaturePairs:
    """Records the outputs of the paired modules of both networks; a context manager that removes its hooks.

    Args:
        student: the network being trained.
        teacher: the original one.

    Raises:
        UsageError: the two have no site in common.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        self.names = paired_modules(student, teacher)
        if not self.names:
            raise UsageError(
                "no site to take features from",
                why="the network has no replaced activation that the teacher has a module for",
                fix="distill_features = 0",
            )
        self._outputs: tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]] = ({}, {})
        self._hooks = hooked(
            model.get_submodule(name).register_forward_hook(self._recorder(side, name))
            for side, model in enumerate((student, teacher))
            for name in self.names
        )
        self._hooks.__enter__()

    def _recorder(self, side: int, name: str) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self._outputs[side].setdefault(name, []).append(output)

        return record

    def clear(self) -> None:
        """Forget what was recorded; call it before each forward pass of the student."""
        for side in self._outputs:
            side.clear()

    def loss(self) -> Tensor:
        """Return the mean over the sites of |student - teacher|^2 / |teacher|^2 in the last forward passes."""
        student, teacher = self._outputs
        terms = [
            (mine.float() - theirs.float()).square().mean() / theirs.float().square().mean().clamp_min(1e-12)
            for name in student
            for mine, theirs in zip(student[name], teacher.get(name, []), strict=False)
            if mine.shape == theirs.shape
        ]
        if not terms:
            raise UsageError("no features were recorded", why="no paired module returned a tensor in this pass")
        return torch.stack(terms).mean()

    def __enter__(self) -> FeaturePairs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)
