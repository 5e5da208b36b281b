"""The fine-tuning loop on Lightning Fabric: any number of processes, resumable to the same numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from actswap.errors import UsageError
from actswap.sites import Progress
from actswap.train import checkpoint
from actswap.train.average import Average
from actswap.train.backoff import Backoff
from actswap.train.config import TuneConfig
from actswap.train.data import Data, augment, evaluation_batches, training_batches
from actswap.train.distill import FeaturePairs
from actswap.train.divergence import Diverged, Watch
from actswap.train.engine import make_optimizer, start_fabric
from actswap.train.evaluate import in_mode, lent_state
from actswap.train.groups import param_groups
from actswap.train.journal import Journal
from actswap.train.norm import batch_norms, gathered_statistics, reestimate
from actswap.train.objective import Objective
from actswap.train.report import TuneReport, write_results
from actswap.train.schedule import Ramps, rate_factor
from actswap.train.trained import parts_of, still_norms, trainable_only


def tune(
    model: nn.Module,
    data: Data,
    config: TuneConfig | None = None,
    teacher: nn.Module | None = None,
    progress: Progress | None = None,
) -> TuneReport:
    """Fine-tune a network in place.

    Under torchrun the processes share each batch. The numbers are those of one process with the same `batch`, to
    rounding; only dropout draws differently. If `out` is set, a run that was stopped or killed goes on with
    `resume=True`. It ends in the same bits on the same machine with the same number of processes.

    The run is watched for divergence: the loss at every step, activations and parameters every `log_every` steps. If
    it diverges, the model gets its last good weights back, and `out` gets them as a checkpoint. Then the run ends or,
    with `on_divergence="backoff"`, goes on from there with smaller activation rates.

    Args:
        model: the network, usually `convert(...).model`; trained in place and left on the training device.
        data: training and validation sets.
        config: what to do; None is `TuneConfig()`.
        teacher: the original network, needed if the config distils; not changed.
        progress: called with (steps done, all steps, message).

    Returns:
        Counts, scores before and after, metrics and files.

    Raises:
        UsageError: the config cannot be used, all problems listed; no teacher; batch larger than the data.
        DivergenceError: the run diverged; the message names the first module that did.
        FileError: `out` cannot be written.

    >>> from torch.utils.data import TensorDataset
    >>> import actswap
    >>> x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    >>> data = Data(TensorDataset(x, (x[:, 0] > 0).long()))
    >>> model = actswap.convert(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "acon_c", x).model
    >>> tune(model, data, TuneConfig(epochs=2, batch=8, accelerator="cpu")).steps
    8
    """
    config = config or TuneConfig()
    problems = config.problems()
    if config.needs_teacher and teacher is None:
        problems.append("distill: needs a teacher, the original network")
    if problems:
        raise UsageError("cannot fine-tune with these settings", why="; ".join(problems))
    with torch.random.fork_rng(enabled=True), trainable_only(model, config.train):
        return _Run(model, data, config, teacher if config.needs_teacher else None, progress).run()


class _Run:
    """One run: what `tune` holds between its steps."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        config: TuneConfig,
        teacher: nn.Module | None,
        progress: Progress | None,
    ) -> None:
        self.model, self.data, self.config = model, data, config
        self.teacher, self.progress = teacher, progress
        self.fabric = start_fabric(config)
        self.rank, self.world = int(self.fabric.global_rank), int(self.fabric.world_size)
        self.count = len(data.train)  # type: ignore[arg-type]
        self.batch = min(config.batch, self.count // self.world * self.world)
        if self.batch == 0 or self.batch % self.world:
            raise UsageError(
                f"a batch of {self.batch} cannot be shared by {self.world} processes",
                why=f"{self.count} training items, batch = {config.batch}",
                fix=f"batch = {max(1, config.batch // self.world) * self.world}",
            )
        self.total = max(1, round(config.epochs * (self.count // self.batch)))
        self.out = Path(config.out) if config.out is not None else None
        self.journal = Journal(self.out, self.rank, self.fabric.barrier)
        self.window = torch.zeros(2, dtype=torch.float64)  # sum of losses and steps since the last line
        self.objective = Objective(model, config, data.loss, teacher, self.fabric.autocast)
        torch.manual_seed(config.seed + 7919 * self.rank)
        groups = param_groups(model, config.weight_decay, config.lr, config.activation_lr)
        if not groups:
            raise UsageError("nothing to train", why="no parameter requires a gradient")
        self.peaks = [float(group["lr"]) for group in groups]
        self.ramps = Ramps(model, config.schedules)
        self.net, self.optimizer = self.fabric.setup(model, make_optimizer(groups, config))
        if teacher is not None:
            teacher.to(self.fabric.device)
        self.average = Average(model, config.ema) if config.ema is not None else None
        self.watch = Watch(model, self._largest) if config.on_divergence != "ignore" else None
        self.backoff = Backoff(config, any(group["name"].startswith("activation") for group in groups))

    def run(self) -> TuneReport:
        began = time.perf_counter()
        found = self._resume()
        start = found.step if found else 0
        if found is None:
            self.ramps.apply(0.0)
            self._validate(0)
        if self.watch is not None:
            self.backoff.keep(self._position(start))
        with ExitStack() as stack:
            stack.enter_context(gathered_statistics(self.model, self.world))
            features = None
            if self.teacher is not None:
                stack.enter_context(in_mode(self.teacher, training=False))
                if self.config.distill_features > 0:
                    features = stack.enter_context(FeaturePairs(self.model, self.teacher))
            while True:
                try:
                    self._steps(start, features)
                    self._finish()
                    break
                except Diverged as problem:
                    start = self._go_back(problem)
        metrics = self.journal.rows
        valid = [row for row in metrics if row["kind"] == "valid"]
        files: tuple[str, ...] = ()
        if self.out is not None and self.rank == 0:
            files = write_results(self.out, self.model.state_dict(), metrics)
        return TuneReport(
            steps=self.total,
            images=self.total * self.batch,
            epochs=self.total * self.batch / self.count,
            trained=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            seconds=time.perf_counter() - began,
            resumed_from=found.step if found else None,
            before=_scores(valid[0]) if valid else {},
            after=_scores(valid[-1]) if valid else {},
            backoffs=tuple(self.backoff.entries),
            metrics=tuple(metrics),
            files=files,
        )

    def _steps(self, start: int, features: FeaturePairs | None) -> None:
        config, per_epoch = self.config, self.count // self.batch
        batches = training_batches(
            self.data.train,
            self.batch,
            config.seed,
            range(start, self.total),
            self.rank,
            self.world,
            config.workers,
        )
        self._train_mode()
        for done, (x, target) in enumerate(batches, start + 1):
            fraction = (done - 1) / self.total
            factor = rate_factor(config.curve, fraction, config.warmup)
            for group, peak in zip(self.optimizer.param_groups, self._peaks(), strict=True):
                group["lr"] = peak * factor
            self.ramps.apply(fraction)
            x, target = x.to(self.fabric.device), target.to(self.fabric.device)
            if config.augment:
                x = augment(x, config.augment, config.seed, done - 1, self.rank, self.world)
            checkpointed = done == self.total or (config.checkpoint_every and done % config.checkpoint_every == 0)
            examined = done % config.log_every == 0 or checkpointed
            loss, good = self._watched_loss(done, x, target, features, bool(examined))
            self.fabric.backward(loss)
            if config.clip is not None:
                self.fabric.clip_gradients(self.net, self.optimizer, max_norm=config.clip, error_if_nonfinite=False)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.average is not None:
                self.average.update(self.model, done - 1)
            self.window += torch.stack([loss.detach().double().cpu(), torch.ones((), dtype=torch.float64)])
            if done % config.log_every == 0 or done == self.total:
                self._log_step(done, per_epoch, config.lr * factor)
            if done % per_epoch == 0 and done < self.total:
                self._validate(done)
                self._train_mode()
            if examined and self.watch is not None and self.watch.check_modules(done) and good:
                self.backoff.keep(self._position(done))
            if checkpointed:
                self._save(self._position(done))
            if self.progress is not None:
                self.progress(done, self.total, f"loss {float(loss.detach()):.4f}")

    def _watched_loss(
        self, step: int, x: Tensor, target: Tensor, features: FeaturePairs | None, examined: bool
    ) -> tuple[Tensor, bool]:
        """Compute the loss of a step and look for divergence.

        Args:
            step: the optimizer step.
            x: inputs.
            target: labels.
            features: what feature distillation records.
            examined: look at outputs and parameters too, not at the loss alone.

        Returns:
            The loss, and True if this step's parameters are a good state to return to.
        """
        watch = self.watch
        if watch is None:
            return self.objective.of_step(self.net, x, target, features), False
        outputs: Mapping[str, Tensor] = {}
        with ExitStack() as stack:
            if examined or not watch.begun:
                outputs = stack.enter_context(watch.outputs())
            loss = self.objective.of_step(self.net, x, target, features)
        value = float(self._summed(loss.detach().double().cpu())) / self.world
        if not watch.begun:
            watch.begin(value, self.objective.constant_guess, outputs)
        try:
            watch.check_loss(step, value)
            return loss, watch.check_modules(step, outputs) if examined else False
        except Diverged as problem:
            with watch.outputs() as outputs, torch.no_grad(), self.fabric.autocast():
                self.model(x)  # once more, this time looking at every module
            watch.name_module(problem, outputs)
            raise

    def _train_mode(self) -> None:
        self.model.train()
        still = batch_norms(self.model) if self.config.batch_norm == "frozen" else []
        if parts_of(self.config.train) != ["all"]:
            still = [*still, *still_norms(self.model)]
        for norm in still:
            norm.eval()

    def _log_step(self, done: int, per_epoch: int, rate: float) -> None:
        total = self._summed(self.window)
        mean = float(total[0] / total[1])
        self.window.zero_()
        self.journal.log({"kind": "train", "step": done, "epoch": done / per_epoch, "loss": mean, "lr": rate})

    def _validate(self, done: int) -> None:
        if self.data.valid is None:
            return
        with lent_state(self.model, self.average.state if self.average and done else None):
            scores = self._evaluate(self.data.valid)
        if done and self.watch is not None:
            self.watch.check_validation(done, scores["loss"])
        self.journal.log({"kind": "valid", "step": done, **scores})

    def _evaluate(self, dataset: Dataset[Any]) -> dict[str, float]:
        sums = torch.zeros(3, dtype=torch.float64)
        with torch.no_grad(), in_mode(self.model, training=False), self.fabric.autocast():
            for x, target in evaluation_batches(dataset, 500, self.rank, self.world, self.config.workers):
                x, target = x.to(self.fabric.device), target.to(self.fabric.device)
                output = self.model(x)
                right = (output.argmax(1) == target).sum() if self.data.loss is None else torch.zeros(())
                sums += torch.stack(
                    [self.objective.plain(output, target).cpu() * len(x), right.cpu(), torch.tensor(len(x))]
                )
        sums = self._summed(sums)
        scores = {"loss": float(sums[0] / sums[2])}
        return {**scores, "score": float(sums[1] / sums[2])} if self.data.loss is None else scores

    def _summed(self, values: Tensor) -> Tensor:
        """Return the sum over all processes; a copy, on the CPU."""
        if self.world == 1:
            return values.clone()
        total: Tensor = self.fabric.all_reduce(values.clone().to(self.fabric.device), reduce_op="sum")
        return total.cpu()

    def _largest(self, values: Tensor) -> Tensor:
        """Return the elementwise maximum over all processes, on the CPU."""
        if self.world == 1:
            return values.cpu()
        # gloo and NCCL know float64; the values differ between processes, the maximum does not.
        most: Tensor = self.fabric.all_reduce(values.to(self.fabric.device), reduce_op="max")
        return most.cpu()

    def _finish(self) -> None:
        """Keep the averaged weights, end every ramp, take statistics anew, and score the result."""
        if self.average is not None:
            self.model.load_state_dict(self.average.state)
        self.ramps.apply(1.0)
        if self.config.reestimate:
            steps = range(min(self.config.reestimate, self.count // self.batch))
            inputs = training_batches(self.data.train, self.batch, self.config.seed, steps, 0, 1, self.config.workers)
            reestimate(self.model, (x.to(self.fabric.device) for x, _ in inputs))
        self.average = None
        self._validate(self.total)
        self.model.eval()

    def _peaks(self) -> list[float]:
        """Return the largest learning rate of each optimizer group; each backoff lowers those of the activations."""
        names = [group["name"] for group in self.optimizer.param_groups]
        rates = zip(names, self.peaks, strict=True)
        return [peak * self.backoff.factor if name.startswith("activation") else peak for name, peak in rates]

    def _go_back(self, problem: Diverged) -> int:
        """Return to a good state, and its step.

        Raises:
            DivergenceError: the run is to stop, or lower rates did not help.
        """
        position = self.backoff.last_good()
        self._go_to(position)
        if not self.backoff.may:
            raise self.backoff.error(problem, position, lambda: self._save(position))
        self.journal.log(self.backoff.note(problem, position))
        if self.progress is not None:
            text = f"diverged at step {problem.step} in {problem.module}: back to step {position.step}"
            self.progress(position.step, self.total, text)
        return position.step

    def _position(self, done: int) -> checkpoint.Position:
        state = {
            "schema": 1,
            "step": done,
            "config": self.config.to_dict(),
            "images": self.count,
            "window": self.window.tolist(),
            "processes": self.world,
            "watch": self.watch.state() if self.watch is not None else None,
            "backoffs": list(self.backoff.entries),
        }
        process = {
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        average = self.average.state if self.average is not None else None
        model = checkpoint.copied(self.model.state_dict())
        return checkpoint.Position(state, model, checkpoint.copied(average), checkpoint.copied(process))

    def _save(self, position: checkpoint.Position) -> Path | None:
        if self.out is None:
            return None
        return checkpoint.write(self.out, position, self.rank, self.fabric.barrier)

    def _go_to(self, position: checkpoint.Position) -> None:
        """Put the network, the optimizer and the random generators where they were."""
        self.model.load_state_dict(position.model)
        if self.config.ema is not None and position.average is not None:
            self.average = Average(self.model, self.config.ema)
            self.average.load(position.average)
        process = checkpoint.copied(position.process)  # the optimizer goes on in the tensors it is given
        self.optimizer.load_state_dict(process["optimizer"])
        self.fabric.strategy.precision.load_state_dict(process["precision"])
        if "random" in process:
            torch.set_rng_state(process["random"])
            if process["random_cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(process["random_cuda"])
        self.window = torch.tensor(position.state["window"], dtype=torch.float64)
        if self.watch is not None and position.state.get("watch"):
            self.watch.resume(position.state["watch"])

    def _resume(self) -> checkpoint.Checkpoint | None:
        """Go back to the newest checkpoint; metrics after it are cut, they will be written again."""
        if self.out is None:
            return None
        found = checkpoint.newest(self.out) if self.config.resume else None
        if found is None:
            file = self.out / "metrics.jsonl"
            if not self.config.resume and (file.exists() or checkpoint.newest(self.out)):
                raise UsageError(
                    "the folder holds another run", where=str(self.out), fix="resume = true, or another `out`"
                )
            self.journal.resume(-1, self.total)
            return None
        checkpoint.check_same_run(found, self.config.to_dict(), self.count)
        self._go_to(found.position(self.rank))
        self.backoff.entries = list(found.state.get("backoffs", []))
        self.journal.resume(found.step, self.total)
        return found


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in ("loss", "score") if name in row}
