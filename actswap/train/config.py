"""What a fine-tuning run does, as plain frozen data that can be checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

OPTIMIZERS = ("sgd", "adamw")
CURVES = ("one_cycle", "cosine", "linear", "constant")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "64-true")
ON_DIVERGENCE = ("stop", "backoff", "ignore")
SCHEDULED = ("morph", "beta", "temperature")


@dataclass(frozen=True)
class Ramp:
    """A value that moves from `start` to `end` between two fractions of the run, and stays there.

    Attributes:
        start: value before and at `begin`.
        end: value at and after `until`.
        begin: fraction of all steps at which the move begins, 0 to 1.
        until: fraction at which it ends, `begin` to 1.

    >>> ramp = Ramp(start=200.0, end=50.0, until=0.5)
    >>> [ramp.at(fraction) for fraction in (0.0, 0.25, 1.0)]
    [200.0, 125.0, 50.0]
    """

    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0

    def at(self, fraction: float) -> float:
        """Return the value at a fraction of the run; linear in between.

        >>> Ramp(1.0, 0.0, begin=0.0, until=0.5).at(0.25)
        0.5
        """
        if fraction <= self.begin:
            return self.start if self.until > self.begin else self.end
        if fraction >= self.until:
            return self.end
        return self.start + (self.end - self.start) * (fraction - self.begin) / (self.until - self.begin)


@dataclass(frozen=True)
class TuneConfig:
    """How to fine-tune.

    Attributes:
        epochs: passes over the training set; a fraction is allowed.
        batch: images per step over all processes together.
        optimizer: `sgd` (Nesterov) or `adamw`.
        lr: largest learning rate of the network's weights.
        activation_lr: the same for activation parameters; None takes `lr`.
        weight_decay: for weights; activation parameters named in `Spec.no_decay` never decay.
        momentum: of SGD.
        curve: `one_cycle` (half a cosine up over `warmup`, half a cosine down to 0), `cosine` or `linear` (both after
            a linear warm-up), or `constant`.
        warmup: fraction of the steps.
        clip: largest gradient norm; None does not clip.
        label_smoothing: of the cross entropy.
        precision: as Lightning Fabric names it.
        ema: decay of the averaged weights that are evaluated and kept; None keeps the last weights.
        distill: weight of the teacher's logits in the loss, 0 to 1; the labels have the rest.
        distill_temperature: softmax temperature of that term.
        distill_features: weight of the per-site feature term, added on top.
        train: what trains, with commas between: `all`, `activations`, `head`, `bias`, `norm`, and globs over parameter
            names (`layer4.*`). What the list does not name is frozen.
        batch_norm: `train` (statistics of the batch, gathered over processes) or `frozen` (running statistics). If
            `train` is not `all`, a BatchNorm of which nothing trains is frozen in any case.
        reestimate: batches over which BatchNorm statistics are taken anew after the last step; 0 keeps them.
        augment: names of augmentations for image batches: `flip`, `shift` (up to 1/8 of the side).
        schedules: ramps by name: `morph` (the t of morphing sites), `beta` (sharpness of ACON sites; the
            parameter is held at the ramp until it ends, then trains), `temperature` (DY-ReLU-C's softmax).
        on_divergence: if the loss, an activation or a parameter explodes or is not finite: `stop` with the last
            good weights, `backoff` to them with a tenth of the activations' learning rates (five times at most), or
            `ignore`.
        seed: order of the images, augmentation and dropout.
        workers: data loading processes per training process.
        accelerator: `auto`, `cpu`, `cuda`, ...
        log_every: steps between two lines of metrics.
        checkpoint_every: steps between two checkpoints; 0 writes none but the last.
        out: folder for metrics, checkpoints and the curve; None writes nothing.
        resume: go on from the newest checkpoint in `out`, if there is one.

    >>> TuneConfig(epochs=2, lr=0.01, distill=0.5).problems()
    []
    >>> TuneConfig(batch=0).problems()
    ['batch = 0: must be at least 1']
    """

    epochs: float = 1.0
    batch: int = 128
    optimizer: str = "sgd"
    lr: float = 0.05
    activation_lr: float | None = None
    weight_decay: float = 5e-4
    momentum: float = 0.9
    curve: str = "one_cycle"
    warmup: float = 0.3
    clip: float | None = None
    label_smoothing: float = 0.0
    precision: str = "32-true"
    ema: float | None = None
    distill: float = 0.0
    distill_temperature: float = 2.0
    distill_features: float = 0.0
    train: str = "all"
    batch_norm: str = "train"
    reestimate: int = 0
    augment: tuple[str, ...] = ()
    schedules: Mapping[str, Ramp] = field(default_factory=dict)
    on_divergence: str = "stop"
    seed: int = 0
    workers: int = 0
    accelerator: str = "auto"
    log_every: int = 50
    checkpoint_every: int = 0
    out: str | None = None
    resume: bool = False

    @property
    def needs_teacher(self) -> bool:
        """True if a distillation term has weight."""
        return self.distill > 0 or self.distill_features > 0

    def problems(self) -> list[str]:
        """Return one sentence for every value that cannot be used.

        >>> TuneConfig(batch=0, optimizer="adam").problems()
        ['batch = 0: must be at least 1', "optimizer = 'adam': one of sgd, adamw"]
        """
        checks = [
            (self.epochs > 0, f"epochs = {self.epochs}: must be above 0"),
            (self.batch >= 1, f"batch = {self.batch}: must be at least 1"),
            (self.lr >= 0, f"lr = {self.lr}: must not be negative"),
            (
                self.activation_lr is None or self.activation_lr >= 0,
                f"activation_lr = {self.activation_lr}: must not be negative",
            ),
            (self.weight_decay >= 0, f"weight_decay = {self.weight_decay}: must not be negative"),
            (0 <= self.momentum < 1, f"momentum = {self.momentum}: must lie in [0, 1)"),
            (0 <= self.warmup < 1, f"warmup = {self.warmup}: is a fraction of the run, in [0, 1)"),
            (self.clip is None or self.clip > 0, f"clip = {self.clip}: must be above 0"),
            (0 <= self.label_smoothing < 1, f"label_smoothing = {self.label_smoothing}: must lie in [0, 1)"),
            (self.ema is None or 0 < self.ema < 1, f"ema = {self.ema}: must lie in (0, 1)"),
            (0 <= self.distill <= 1, f"distill = {self.distill}: must lie in [0, 1]"),
            (
                self.distill_temperature > 0,
                f"distill_temperature = {self.distill_temperature}: must be above 0",
            ),
            (self.distill_features >= 0, f"distill_features = {self.distill_features}: must not be negative"),
            (self.reestimate >= 0, f"reestimate = {self.reestimate}: must not be negative"),
            (self.workers >= 0, f"workers = {self.workers}: must not be negative"),
            (self.log_every >= 1, f"log_every = {self.log_every}: must be at least 1"),
            (self.checkpoint_every >= 0, f"checkpoint_every = {self.checkpoint_every}: must not be negative"),
            (
                not self.resume or self.out is not None,
                "resume = true: needs `out`, the folder of the earlier run",
            ),
        ]
        checks.append((bool(self.train.strip(" ,")), f"train = {self.train!r}: names nothing"))
        found = [text for ok, text in checks if not ok]
        for name, allowed in (
            ("optimizer", OPTIMIZERS),
            ("curve", CURVES),
            ("precision", PRECISIONS),
            ("batch_norm", ("train", "frozen")),
            ("on_divergence", ON_DIVERGENCE),
        ):
            if getattr(self, name) not in allowed:
                found.append(f"{name} = {getattr(self, name)!r}: one of {', '.join(allowed)}")
        found += [f"augment = {name!r}: one of flip, shift" for name in self.augment if name not in ("flip", "shift")]
        for name, ramp in self.schedules.items():
            if name not in SCHEDULED:
                found.append(f"schedules.{name}: one of {', '.join(SCHEDULED)}")
            if not 0 <= ramp.begin <= ramp.until <= 1:
                found.append(f"schedules.{name}: needs 0 <= begin <= until <= 1, not {ramp.begin} and {ramp.until}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "augment": list(self.augment)}
