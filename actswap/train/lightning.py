"""A callback for Lightning's Trainer: `Trainer(callbacks=[ActivationCallback(out="bundle")])`.

It serves `lightning` and `pytorch_lightning`: it is a callback of the one that is imported already, or installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from actswap.capture.wrappers import is_sharded
from actswap.errors import UsageError
from actswap.io.base_note import Base
from actswap.io.torchvision_import import import_library
from actswap.train.config import Ramp
from actswap.train.follow import Follow, check_optimizer


def _callback_class() -> Any:
    names = ("lightning.pytorch", "pytorch_lightning")
    for name in sorted(names, key=lambda name: name not in sys.modules):
        with suppress(ImportError):
            return import_library(name).Callback
    raise UsageError("Lightning is not installed", fix="pip install lightning")


class ActivationCallback(_callback_class()):  # type: ignore[misc]
    """Moves scheduled values, stops a run that diverges, and saves the bundle at the end.

    `configure_optimizers` makes the groups: `torch.optim.AdamW(actswap.param_groups(self, weight_decay=0.01))`. It is
    checked that they train the activations.

    Args:
        schedules: ramps by `morph`, `beta`, `temperature`.
        out: folder of the bundle; None writes none.
        base: a note on the model file that was converted, for the bundle.
        overwrite: replace an existing bundle.
        check_every: steps between two looks at the parameters.
    """

    def __init__(
        self,
        schedules: Mapping[str, Ramp] | None = None,
        out: str | os.PathLike[str] | None = None,
        base: Base | None = None,
        overwrite: bool = False,
        check_every: int = 50,
    ) -> None:
        super().__init__()
        self._how: dict[str, Any] = {"schedules": schedules, "out": out, "base": base}
        self._how |= {"overwrite": overwrite, "check_every": check_every}
        self._follow: Follow | None = None
        self.bundle: Path | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Set the ramps to where the run begins, and look at the optimizer."""
        check_optimizer(pl_module, [group for optimizer in trainer.optimizers for group in optimizer.param_groups])
        self._follow = Follow(pl_module, int(trainer.estimated_stepping_batches), **self._how)
        self._follow.resume(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Follow the optimizer steps that this batch made: none while gradients are accumulated."""
        assert self._follow is not None
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        for _ in range(trainer.global_step - self._follow.done):
            self._follow.step(loss)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Save the bundle: on rank 0, or on all ranks if the network is sharded."""
        if self._follow is not None and (trainer.is_global_zero or is_sharded(pl_module)):
            self.bundle = self._follow.finish()
