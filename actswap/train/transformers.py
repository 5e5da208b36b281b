"""A callback for transformers' Trainer: `Trainer(..., callbacks=[ActivationCallback(out="bundle")])`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actswap.capture.wrappers import is_sharded, parts_of_peft
from actswap.io.base_note import Base
from actswap.io.torchvision_import import import_library
from actswap.train.config import Ramp
from actswap.train.follow import Follow, check_optimizer

_Base: Any = import_library("transformers").TrainerCallback


class ActivationCallback(_Base):  # type: ignore[misc]
    """Moves scheduled values, stops a run that diverges, and saves the bundle at the end.

    The Trainer makes an optimizer that decays every matrix and vector except biases and norms. Give it one that knows
    activations: `Trainer(..., optimizers=(torch.optim.AdamW(actswap.param_groups(model, weight_decay=0.01)), None))`.

    Args:
        schedules: ramps by `morph`, `beta`, `temperature`.
        out: folder of the bundle; None writes none. It is not written while adapters of PEFT are unmerged: save them
            with `save_pretrained`, or `actswap.save(model.merge_and_unload(), out)`.
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
        self._how: dict[str, Any] = {"schedules": schedules, "out": out, "base": base}
        self._how |= {"overwrite": overwrite, "check_every": check_every}
        self._follow: Follow | None = None
        self.bundle: Path | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Set the ramps to where the run begins, and look at the optimizer."""
        model, optimizer = given["model"], given.get("optimizer")
        if optimizer is not None:
            check_optimizer(model, optimizer.param_groups)
        self._follow = Follow(model, int(state.max_steps), **self._how)
        self._follow.resume(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Follow one optimizer step; its loss is not known here."""
        assert self._follow is not None
        self._follow.step()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **given: Any) -> None:
        """Judge the mean loss since the last log."""
        if self._follow is not None and logs is not None and "loss" in logs:
            self._follow.judge(float(logs["loss"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Save the bundle: on rank 0, or on all ranks if the network is sharded."""
        model = given["model"]
        if self._follow is not None and not parts_of_peft(model) and (state.is_world_process_zero or is_sharded(model)):
            self.bundle = self._follow.finish()
