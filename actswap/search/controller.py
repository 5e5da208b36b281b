"""The paper's controller: an RNN that predicts one component after the other, trained with PPO.

Ramachandran et al. 2017, section 2: the controller is autoregressive (Zoph & Le 2016), the reward is the child's
validation accuracy, an exponential moving average of rewards is the baseline, and the update is PPO (Schulman et al.
2017, eq. 7). The paper gives no sizes or rates; those in `ControllerConfig` are ours.

The policy is a function of (seed, finished trials in the order of their numbers): every worker computes the same one
from the storage, whichever of them ran the trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor, nn

from actswap.search.results import reward_of

_LOG_PROBABILITY = "actswap:log_probability"


@dataclass(frozen=True)
class ControllerConfig:
    """Settings of the controller; the paper leaves all of them open.

    Attributes:
        hidden: width of the LSTM and of its embeddings.
        batch: finished trials per update.
        epochs: passes over a batch in one update.
        lr: learning rate of Adam.
        clip: PPO's clipping range.
        entropy: weight of the entropy of the choices, which keeps the controller trying.
        baseline: decay of the moving average of rewards.
    """

    hidden: int = 48
    batch: int = 16
    epochs: int = 8
    lr: float = 1e-3
    clip: float = 0.2
    entropy: float = 0.4
    baseline: float = 0.9


class Policy(nn.Module):
    """An LSTM over the components: each choice is fed back as the next input.

    Args:
        choices: number of choices of every component.
        hidden: width.
    """

    def __init__(self, choices: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.choices = tuple(choices)
        self.start = nn.Parameter(torch.zeros(1, hidden))
        self.cell = nn.LSTMCell(hidden, hidden)
        self.embeddings = nn.ModuleList(nn.Embedding(n, hidden) for n in self.choices)
        self.heads = nn.ModuleList(nn.Linear(hidden, n) for n in self.choices)

    def run(self, taken: Tensor | None, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Draw points, or look at points that were drawn before.

        Args:
            taken: (count, components) indices of the choices; None draws them.
            count: number of points.
            generator: of the draws.

        Returns:
            The indices, the log-probability of each point (count,), and the mean entropy of each (count,).
        """
        x, state = self.start.expand(count, -1), None
        indices, log_probabilities, entropies = [], [], []
        for k, (embedding, head) in enumerate(zip(self.embeddings, self.heads, strict=True)):
            state = self.cell(x, state)
            logs = torch.log_softmax(head(state[0]), -1)
            chosen = torch.multinomial(logs.exp(), 1, generator=generator)[:, 0] if taken is None else taken[:, k]
            indices.append(chosen)
            log_probabilities.append(logs.gather(1, chosen[:, None])[:, 0])
            entropies.append(-(logs.exp() * logs).sum(-1))
            x = embedding(chosen)
        return torch.stack(indices, 1), torch.stack(log_probabilities).sum(0), torch.stack(entropies).mean(0)


class ControllerSampler(BaseSampler):
    """Samples points by the controller; a sampler of Optuna like any other.

    Args:
        components: the choices of every component, in order (`Space.components`).
        seed: of the first weights and of all draws.
        config: settings.
    """

    def __init__(
        self, components: Mapping[str, Sequence[str]], seed: int = 0, config: ControllerConfig | None = None
    ) -> None:
        self.components, self.seed = {k: tuple(v) for k, v in components.items()}, seed
        self.config = config or ControllerConfig()
        self._forget()

    def _forget(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.policy = Policy([len(c) for c in self.components.values()], self.config.hidden)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.config.lr)
        self.learned = 0  # trials that updates have used, in the order of their numbers
        self.baseline: float | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all components: they are sampled together."""
        return {name: CategoricalDistribution(choices) for name, choices in self.components.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Learn from the trials that have finished, then draw a point."""
        self._learn(study)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + trial.number)
        with torch.no_grad():
            indices, log_probability, _ = self.policy.run(None, 1, generator)
        study._storage.set_trial_system_attr(trial._trial_id, _LOG_PROBABILITY, float(log_probability[0]))
        return {n: c[int(i)] for (n, c), i in zip(self.components.items(), indices[0], strict=True)}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample what is no component of the space, at random."""
        return optuna.samplers.RandomSampler(seed=self.seed + trial.number).sample_independent(
            study, trial, param_name, param_distribution
        )

    def _learn(self, study: Study) -> None:
        """Update the policy once for every full batch of finished trials, in the order of their numbers."""
        trials = study.get_trials(deepcopy=False)
        over = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        prefix: list[FrozenTrial] = []
        for trial in trials:  # one that still runs holds back those after it, so that all workers see one order
            if trial.state not in over:
                break
            if "retried" not in trial.user_attrs:
                prefix.append(trial)
        while len(prefix) - self.learned >= self.config.batch:
            self._update(prefix[self.learned : self.learned + self.config.batch])
            self.learned += self.config.batch

    def _update(self, trials: Sequence[FrozenTrial]) -> None:
        usable = [t for t in trials if set(self.components) <= set(t.params)]
        if not usable:
            return
        taken = torch.tensor([[c.index(t.params[n]) for n, c in self.components.items()] for t in usable])
        rewards = torch.tensor([reward_of(t) for t in usable])
        old = torch.tensor([_drawn_with(t) for t in usable])
        with torch.no_grad():  # of trials that something else proposed: take the policy as it is
            now = self.policy.run(taken, len(usable))[1]
        old = torch.where(old.isnan(), now, old)
        self.baseline = float(rewards.mean()) if self.baseline is None else self.baseline
        advantages = rewards - self.baseline
        scale = advantages.std(unbiased=False)
        advantages = advantages / scale if float(scale) > 0 else advantages
        clip = self.config.clip
        for _ in range(self.config.epochs):
            _, logs, entropy = self.policy.run(taken, len(usable))
            ratio = (logs - old).exp()
            gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
            loss = -(gain + self.config.entropy * entropy).mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        decay = self.config.baseline
        for reward in rewards.tolist():
            self.baseline = decay * self.baseline + (1 - decay) * reward


def _drawn_with(trial: FrozenTrial) -> float:
    """Return the log-probability of a trial's point when it was drawn; NaN if the controller did not draw it.

    The point of a trial that runs again after its worker died was drawn for the earlier one.
    """
    if "fixed_params" in trial.system_attrs:
        return float("nan")
    return float(trial.system_attrs.get(_LOG_PROBABILITY, np.nan))
