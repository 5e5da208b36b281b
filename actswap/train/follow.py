"""What a converted network needs beside a training loop of your own: ramps, a check for divergence, the bundle."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from actswap.activations.morph import Morph
from actswap.errors import DivergenceError, UsageError
from actswap.io.base_note import Base
from actswap.io.bundle import save
from actswap.record import the_converted
from actswap.train.config import Ramp
from actswap.train.divergence import Diverged, Watch
from actswap.train.groups import activation_parameters, param_groups
from actswap.train.schedule import Ramps


class Follow:
    """Follow a training loop: move scheduled values, stop when the run diverges, save the bundle at the end.

    Args:
        model: a converted network, or what a toolkit has put around it.
        steps: optimizer steps of the whole run.
        schedules: ramps by `morph`, `beta`, `temperature`; the values are set at once for step 0.
        out: folder of the bundle that `finish` writes; None writes none.
        base: a note on the model file that was converted, for the bundle.
        overwrite: replace an existing bundle.
        check_every: steps between two looks at the parameters; losses are judged at every step.

    Raises:
        UsageError: the model holds no converted network, or a schedule moves nothing.

    >>> import torch, actswap
    >>> x, y = torch.randn(64, 4), torch.randn(64, 1)
    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> network = actswap.convert(network, "swish", x, start="morph").model
    >>> optimizer = torch.optim.SGD(actswap.param_groups(network, weight_decay=1e-4), lr=0.01)
    >>> follow = Follow(network, steps=10, schedules={"morph": Ramp(0.0, 1.0)})
    >>> for _ in range(10):
    ...     optimizer.zero_grad()
    ...     loss = nn.functional.mse_loss(network(x), y)
    ...     loss.backward()
    ...     optimizer.step()
    ...     follow.step(loss)
    >>> network[1].t  # the pure target
    1.0
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int,
        schedules: Mapping[str, Ramp] | None = None,
        out: str | os.PathLike[str] | None = None,
        base: Base | None = None,
        overwrite: bool = False,
        check_every: int = 50,
    ) -> None:
        self._model, self._out, self._base, self._overwrite = model, out, base, overwrite
        _, network = the_converted(model, "save")
        self._steps, self._every, self._done = max(1, steps), max(1, check_every), 0
        self._ramps = Ramps(network, schedules or {})
        still = sum(isinstance(m, Morph) and m.t == 0.0 for m in network.modules())
        if still and "morph" not in (schedules or {}):
            warnings.warn(
                f"{still} activations are morphs at t = 0, where their targets have no gradient; "
                "schedules={'morph': Ramp(0.0, 1.0)} moves them",
                stacklevel=2,
            )
        self._watch = Watch(network, lambda tensor: tensor)
        self._ramps.apply(0.0)

    @property
    def done(self) -> int:
        """Steps followed so far."""
        return self._done

    def resume(self, done: int) -> None:
        """Go on after `done` steps of an earlier run."""
        self._done = done
        self._ramps.apply(min(1.0, done / self._steps))

    def step(self, loss: Tensor | float | None = None) -> None:
        """Follow one optimizer step.

        Args:
            loss: its loss; None if the loop does not know it, then the parameters alone are watched.

        Raises:
            DivergenceError: the loss or a parameter is not finite, or far above what it was at the first step.
        """
        self._done += 1
        self.judge(loss, look=self._done % self._every == 0 or self._done >= self._steps)
        self._ramps.apply(min(1.0, self._done / self._steps))

    def judge(self, loss: Tensor | float | None = None, look: bool = False) -> None:
        """Compare a loss, and the parameters if asked to `look` at them, with those of the first call.

        Args:
            loss: the loss of a step, or the mean of some.
            look: also look at the parameters.

        Raises:
            DivergenceError: one is not finite, or far above what it was at first.
        """
        value = None if loss is None else float(loss.detach() if isinstance(loss, Tensor) else loss)
        try:
            if not self._watch.begun:
                self._watch.begin(1.0 if value is None else value, 1.0, {})
            if value is not None:
                self._watch.check_loss(self._done, value)
            if look:
                self._watch.check_modules(self._done)
        except Diverged as problem:
            self._watch.name_module(problem, {})
            raise DivergenceError(
                f"training diverged at step {problem.step}: {problem}",
                where=problem.module,
                why=problem.detail,
                fix="a smaller rate: actswap.param_groups(model, activation_lr=1e-4), or clip gradients",
            ) from None

    def finish(self) -> Path | None:
        """Save the bundle; of a sharded model every rank must call this.

        Returns:
            Its folder, None if there is no `out`.
        """
        return None if self._out is None else save(self._model, self._out, base=self._base, overwrite=self._overwrite)


def check_optimizer(model: nn.Module, groups: Iterable[Mapping[str, Any]]) -> None:
    """Warn if an optimizer does not train activations, or decays parameters whose neutral value is not zero.

    Args:
        model: the network.
        groups: `optimizer.param_groups`.

    Raises:
        UsageError: no activation parameter is trained at all.

    >>> import torch
    >>> from actswap.activations.acon_c import AconC
    >>> from actswap.train.groups import param_groups
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), AconC(4))
    >>> check_optimizer(model, torch.optim.SGD(param_groups(model, 1e-4), lr=0.1).param_groups)
    """
    groups = list(groups)
    trained = {id(p) for group in groups for p in group["params"] if p.requires_grad}
    own = activation_parameters(model)
    if not own:
        return
    idle = [name for name, parameter in own.items() if id(parameter) not in trained]
    if len(idle) == len(own):
        raise UsageError(
            f"the optimizer trains none of the {len(own)} activation parameters",
            why="they are frozen (PEFT freezes what is no adapter), or were made before the network was converted",
            fix="for p in actswap.train.activation_parameters(model).values(): p.requires_grad_(True), "
            "then optimizer = torch.optim.AdamW(actswap.param_groups(model, weight_decay=0.01))",
        )
    if idle:
        warnings.warn(f"the optimizer trains {len(own) - len(idle)} of {len(own)} activation parameters", stacklevel=2)
    kept = {id(p) for g in param_groups(model, weight_decay=1.0) if g["weight_decay"] == 0.0 for p in g["params"]}
    inside = {id(p) for p in own.values()} & kept
    decayed = [p for g in groups if g.get("weight_decay") for p in g["params"] if id(p) in inside]
    if decayed:
        warnings.warn(
            f"weight decay pulls {len(decayed)} activation parameters towards zero, which is not neutral for them; "
            "make the optimizer from actswap.param_groups(model, weight_decay=...)",
            stacklevel=2,
        )
