"""Notice that a run diverges: compare its losses, activations and parameters with those of its first step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from actswap.activations.base import Activation
from actswap.activations.hooks import hooked

# No training loss that is worth continuing is so many times its first value, or the loss of a constant guess.
_LOSS = 30.0
# BatchNorm's running statistics lag behind the weights, so early validation losses may be far off in a good run.
_VALIDATION_LOSS = 1000.0
_RECENT = 10  # steps whose mean loss is judged: one odd batch is no divergence
# Limit of a largest entry, relative to the first step. In ordinary training such entries grow a few tens of times.
_SCALE = 1e4
_SHARE_OF_GOOD = 0.1  # below this share of each limit a state is good enough to return to


class Diverged(Exception):  # noqa: N818  # a signal inside the loop; users see a DivergenceError
    """Raised inside the training loop, which stops or goes back.

    Attributes:
        step: the optimizer step.
        what: what was seen, in words.
        module: the first module, in the order of the forward pass, that is out of bounds; empty if unknown.
        detail: what is wrong with it.
    """

    def __init__(self, step: int, what: str, module: str = "", detail: str = "") -> None:
        super().__init__(what)
        self.step, self.what, self.module, self.detail = step, what, module, detail


class Watch:
    """Compares losses, outputs and parameters with those of the first step.

    Args:
        model: the network that trains.
        largest: elementwise maximum of a tensor over all processes, so that all decide alike.
    """

    def __init__(self, model: nn.Module, largest: Callable[[Tensor], Tensor]) -> None:
        self._model, self._largest = model, largest
        # A module without parameters may return infinities on purpose, as a mask does.
        self._watched = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, Activation) or next(module.parameters(recurse=False), None) is not None
        }
        self._loss = 1.0  # the loss that counts as ordinary; set by the first step
        self._scales: dict[str, float] = {}  # of outputs and parameters at the first step
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def state(self) -> dict[str, Any]:
        """Return what was ordinary at the first step, as plain JSON data."""
        return {"loss": self._loss, "scales": self._scales}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take what `state` returned, and forget the losses since."""
        self._loss, self._scales = float(state["loss"]), dict(state["scales"])
        self._recent.clear()

    @property
    def begun(self) -> bool:
        """True after `begin`."""
        return bool(self._scales)

    @contextmanager
    def outputs(self) -> Iterator[dict[str, Tensor]]:
        """Record the largest absolute output of each watched module, in the order of the forward pass."""
        found: dict[str, Tensor] = {}

        def recorder(name: str) -> Callable[..., None]:
            def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
                for tensor in tree_leaves(output):
                    if isinstance(tensor, Tensor) and tensor.is_floating_point():
                        largest = _largest_entry(tensor)
                        found[name] = torch.maximum(found[name], largest) if name in found else largest

            return record

        with hooked(module.register_forward_hook(recorder(name)) for name, module in self._watched.items()):
            yield found

    def begin(self, loss: float, constant_guess: float, outputs: Mapping[str, Tensor]) -> None:
        """Take the first step as what is ordinary.

        Args:
            loss: the loss of the first step.
            constant_guess: the loss of a network that puts out the same for every input; 1.0 if unknown.
            outputs: from `outputs`, of the first step.
        """
        self._loss = max(loss, constant_guess) if loss < float("inf") else constant_guess
        self._scales = self._measured(outputs)

    def check_loss(self, step: int, loss: float) -> None:
        """Judge the loss of a step, before it changes the parameters.

        Raises:
            Diverged: it is not finite, or the last ones are far above the first.
        """
        self._recent.append(loss)
        mean = sum(self._recent) / len(self._recent)
        if not mean <= _LOSS * self._loss:  # also true for NaN
            raise Diverged(step, f"the loss is {loss:.3g} (ordinary is {self._loss:.3g})")

    def check_validation(self, step: int, loss: float) -> None:
        """Judge a validation loss; raises `Diverged` like `check_loss`."""
        if not loss <= _VALIDATION_LOSS * self._loss:
            raise Diverged(step, f"the validation loss is {loss:.3g} (ordinary is {self._loss:.3g})")

    def check_modules(self, step: int, outputs: Mapping[str, Tensor] = MappingProxyType({})) -> bool:
        """Judge parameters and outputs.

        Args:
            step: the optimizer step.
            outputs: from `outputs`, of this step; none judges the parameters alone.

        Returns:
            True if the state is good: everything, recent losses included, is far below its limit.

        Raises:
            Diverged: an output or a parameter is not finite, or far above what it was at the first step.
        """
        now = self._measured(outputs)
        growth = self._growth(now)
        bad = next((key for key, factor in growth.items() if not factor <= _SCALE), None)
        if bad is not None:
            raise Diverged(step, "the network's numbers explode", *self._said(bad, now[bad]))
        mean = sum(self._recent) / max(len(self._recent), 1)
        calm = all(factor <= _SHARE_OF_GOOD * _SCALE for factor in growth.values())
        return calm and mean <= _SHARE_OF_GOOD * _LOSS * self._loss

    def name_module(self, problem: Diverged, outputs: Mapping[str, Tensor]) -> None:
        """Complete a `Diverged` with the first module out of bounds, or else the one that grew most."""
        now = self._measured(outputs)
        growth = self._growth(now)
        if problem.module or not growth:
            return
        most = max(growth, key=lambda key: growth[key])
        first = next((key for key, factor in growth.items() if not factor <= _SCALE), most)
        problem.module, problem.detail = self._said(first, now[first])

    def _measured(self, outputs: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the largest entry of every parameter (`module:parameter`) and output (`module`), in forward order."""
        found: dict[str, Tensor] = {}
        for name, module in self._watched.items():  # the same keys in the same order in every process
            found |= {f"{name}:{own}": _largest_entry(p) for own, p in module.named_parameters(recurse=False)}
            found[name] = outputs.get(name, torch.zeros(()))
        if not found:
            return {}
        stacked = torch.stack([value.to("cpu", torch.float64) for value in found.values()])
        # The maximum over processes does not keep NaN everywhere; infinity says the same.
        largest = self._largest(torch.nan_to_num(stacked, nan=float("inf"))).tolist()
        agreed = dict(zip(found, largest, strict=True))
        order = {name: position for position, name in enumerate(outputs)}
        return dict(sorted(agreed.items(), key=lambda item: order.get(item[0].partition(":")[0], len(order))))

    def _growth(self, now: Mapping[str, float]) -> dict[str, float]:
        """Return growth factors since the first step.

        A first value below 1, or none, counts as 1. Entries that were infinite at the first step are left out.
        """
        first = {key: max(self._scales.get(key, 1.0), 1.0) for key in now}
        return {key: value / first[key] for key, value in now.items() if first[key] < float("inf")}

    def _said(self, key: str, value: float) -> tuple[str, str]:
        """Return the module's name with its class, and a sentence on what grew."""
        name, _, parameter = key.partition(":")
        module = f"{name} ({type(self._watched[name]).__name__})"
        what = f"its parameter {parameter}" if parameter else "its output"
        now = f"reaches {value:.3g}" if value < float("inf") else "is not finite"
        return module, f"{what} {now}; at the first step it was {self._scales.get(key, 0.0):.3g}"


def _largest_entry(tensor: Tensor) -> Tensor:
    values = tensor.detach()
    return values.abs().amax().double() if values.numel() else values.new_zeros((), dtype=torch.float64)
