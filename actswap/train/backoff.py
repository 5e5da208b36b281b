"""A run that diverged stops with its last good weights, or goes back to them with smaller rates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from actswap.errors import DivergenceError
from actswap.train.checkpoint import Position
from actswap.train.config import TuneConfig
from actswap.train.divergence import Diverged

_FACTOR = 0.1  # of the activations' learning rates, each time
_MOST = 5


class Backoff:
    """The good states of a run, and how often it went back to one.

    Args:
        config: of the run.
        trains_activations: False if there is no activation rate that could be lowered.
    """

    def __init__(self, config: TuneConfig, trains_activations: bool) -> None:
        self._config, self._trains = config, trains_activations
        self._good: list[Position] = []  # at most two: the last may already be on its way to divergence
        self.entries: list[dict[str, Any]] = []

    @property
    def factor(self) -> float:
        """The factor on the learning rates of activations."""
        return float(_FACTOR ** len(self.entries))

    @property
    def may(self) -> bool:
        """True if the run goes back when it diverges next; False if it ends with an error."""
        return self._config.on_divergence == "backoff" and self._trains and len(self.entries) < _MOST

    def keep(self, position: Position) -> None:
        """Remember a good state."""
        self._good = [*self._good[-1:], position]

    def last_good(self) -> Position:
        """Return the last good state; called again without `keep`, the one before it."""
        return self._good.pop() if len(self._good) > 1 else self._good[-1]

    def note(self, problem: Diverged, position: Position) -> dict[str, Any]:
        """Count one return to a good state, and return the line for the metrics."""
        entry = {"step": problem.step, "to": position.step, "module": problem.module, "what": problem.what}
        self.entries.append(entry)
        return {"kind": "backoff", **entry}

    def error(self, problem: Diverged, position: Position, write: Callable[[], Path | None]) -> DivergenceError:
        """Save the good state, and say what happened and what would help.

        Args:
            problem: what was seen.
            position: the good state, which the model has again.
            write: writes it as a checkpoint; returns the folder, or None if the run has none.
        """
        config = self._config
        lower = (config.lr if config.activation_lr is None else config.activation_lr) / 10
        place = write() or "the model has them again"
        why = [problem.detail, f"the last good weights are those of step {position.step}: {place}"]
        fix = f"activation_lr = {lower:g} (actswap tune --set activation_lr={lower:g}), or a smaller lr"
        if self.entries:
            why.append(f"activation rates {self.factor:g} times as large did not help")
            fix = f"a smaller lr than {config.lr:g}, or clip = 1.0"
        elif self._trains:
            fix = f'on_divergence = "backoff" (actswap tune --on-divergence backoff), or {fix}'
        else:
            fix = f"a smaller lr than {config.lr:g}, or clip = 1.0"
        return DivergenceError(
            f"the run diverged at step {problem.step}: {problem.what}",
            where=problem.module,
            why="; ".join(text for text in why if text),
            fix=fix,
        )
