"""Children: a network with the function at its sites, trained for a short while; its validation score is the reward.

A child is a chain of `tune` runs, one for every rung, each going on from the weights of the one before. From scratch it
is built with the function; a pretrained network is converted, begins as what it was, and morphs into the function
during the first half of the first rung, so that every score is that of the pure function. The first weights and the
order of the images follow from (seed, number of the trial) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from actswap.activations.expression_unit import ExpressionUnit
from actswap.activations.morph import Morph
from actswap.conversion.pipeline import convert
from actswap.conversion.survey import Sites, scan
from actswap.errors import ActswapError, UsageError, first_line
from actswap.io.loading import build_model, load_model
from actswap.search.networks import NETWORKS
from actswap.search.tables import ChildTable, SearchFile
from actswap.train import Data, Ramp, TuneConfig, load_data, tune
from actswap.train.data import training_batches
from actswap.train.folder import ImageFolder

EXAMPLES = 2  # images on which a pretrained network is observed


@dataclass(frozen=True)
class Children:
    """What every child of a search shares.

    Attributes:
        table: the network.
        tune: how it is trained.
        halving: by which the rungs grow.
        seed: of the search.
        data: what it is trained on.
        base: the pretrained network; None from scratch.
        sites: its sites; None from scratch.
    """

    table: ChildTable
    tune: TuneConfig
    halving: int
    seed: int
    data: Data
    base: nn.Module | None = None
    sites: Sites | None = None

    def __call__(self, expression: str, number: int) -> Iterator[float]:
        """Train a child; yield its validation score after every rung, 0 to 1, higher is better.

        Raises:
            ActswapError: the child diverged, or cannot be built.
        """
        seed = (self.seed * 1_000_003 + number) & 0x7FFFFFFF
        model = self.network(expression, seed)
        teacher = self.base if self.tune.needs_teacher else None
        done = 0.0
        for rung, upto in enumerate(self.budgets()):
            schedules = schedules_of(self.tune.schedules, model, rung)
            config = replace(self.tune, epochs=upto - done, seed=seed + rung, schedules=schedules)
            yield score_of(tune(model, self.data, config, teacher=teacher).after)
            done = upto

    def budgets(self) -> list[float]:
        """Return the epochs after which each rung ends.

        >>> Children(ChildTable(rungs=3), TuneConfig(epochs=9), 3, 0, None).budgets()
        [1.0, 3.0, 9.0]
        """
        growth = self.halving or 3
        return [self.tune.epochs / growth ** (self.table.rungs - 1 - k) for k in range(self.table.rungs)]

    def network(self, expression: str, seed: int) -> nn.Module:
        """Build the network with a function at its sites.

        Args:
            expression: the function.
            seed: of the first weights.
        """
        if self.base is not None:
            only, skip = list(self.table.only) or None, list(self.table.skip) or None
            example = example_of(self.data, EXAMPLES)
            return convert(
                self.base, expression, example, only=only, skip=skip, verify=False, seed=seed, scanned=self.sites
            ).model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return NETWORKS[self.table.network](
                lambda channels: ExpressionUnit(channels, expression=expression),
                channels_of(self.data),
                self.table.classes or classes_of(self.data),
            )


def prepare_children(file: SearchFile, data: Data | None = None, allow: tuple[str, ...] = ()) -> Children:
    """Load everything that the children of a search need, and train one with ReLU for a step.

    So what would fail every child is said before the search begins.

    Args:
        file: the search.
        data: training and validation sets; None loads what the file names.
        allow: packages whose classes a pickle with the pretrained network may use.

    Raises:
        UsageError: there is no validation part, or the network does not fit the data.
        ActswapError: the data or the network cannot be loaded.
    """
    data = load_data(file.data.source, file.data.size or None) if data is None else data
    where = file.data.source or "data"
    if data.valid is None or len(data.valid) == 0:  # type: ignore[arg-type]
        raise UsageError(
            f"{where} has no validation part",
            why="the score of a function is the validation accuracy of the network that was trained with it",
            fix="return train, valid from the data function, or add a folder val/ beside train/",
        )
    children = Children(file.child, file.tune, file.search.halving, file.search.seed, data)
    if not file.child.from_scratch:
        base = _pretrained(file.child, allow)
        children = replace(children, base=base, sites=scan(base, example_of(data, EXAMPLES)))
    try:
        model = children.network("relu(x)", 0)
        with torch.no_grad():
            output = model.eval()(example_of(data, EXAMPLES))
        once = replace(file.tune, epochs=1e-9, schedules=schedules_of(file.tune.schedules, model, 0))
        tune(model, data, once, teacher=children.base if once.needs_teacher else None)  # one step, and validation
    except ActswapError:
        raise
    except Exception as error:  # networks, data and accelerators have errors of their own
        raise UsageError(
            f"the network {file.child.network} cannot be trained on {where}",
            why=first_line(error),
            fix="child.network, data.source and tune must fit each other",
        ) from error
    if data.loss is None and not (isinstance(output, Tensor) and output.dim() == 2):
        raise UsageError(
            f"the network {file.child.network} does not return class scores (N, classes)",
            fix="return Data(train, valid, loss) from the data function: then the score is 1 / (1 + validation loss)",
        )
    return children


def schedules_of(given: Mapping[str, Ramp], model: nn.Module, rung: int) -> dict[str, Ramp]:
    """Return the ramps of one rung: ramps run during the first one and hold their ends from then on.

    A site that morphs must end as the pure function, so there is a ramp for it without anybody asking.
    """
    morphs = any(isinstance(module, Morph) for module in model.modules())
    wanted = {name: ramp for name, ramp in given.items() if name != "morph" or morphs}
    if morphs:
        wanted.setdefault("morph", Ramp(0.0, 1.0, until=0.5))
    return wanted if rung == 0 else {n: Ramp(r.end, r.end, until=0.0) for n, r in wanted.items() if n != "beta"}


def score_of(after: Mapping[str, float]) -> float:
    """Return the reward: the accuracy, or 1 / (1 + loss) if the data have a loss of their own.

    >>> score_of({"loss": 1.0, "score": 0.75}), score_of({"loss": 3.0})
    (0.75, 0.25)
    """
    return after["score"] if "score" in after else 1 / (1 + max(0.0, after["loss"]))


def example_of(data: Data, count: int) -> Any:
    """Return the inputs of a few training items, the same ones every time."""
    size = min(count, len(data.train))  # type: ignore[arg-type]
    batches = training_batches(data.train, size, 977, range(1), 0, 1, 0)
    return next(iter(batches))[0]


def channels_of(data: Data) -> int:
    """Return the channels of the images.

    Raises:
        UsageError: the items are no images (channels, height, width).
    """
    example = example_of(data, 1)
    if not isinstance(example, Tensor) or example.dim() != 4:
        shape = list(example.shape[1:]) if isinstance(example, Tensor) else type(example).__name__
        raise UsageError(
            f"the networks from scratch take images (channels, height, width), the data have {shape}",
            fix='child.network = "package.module:factory", a pretrained network of your own',
        )
    return int(example.shape[1])


def classes_of(data: Data) -> int:
    """Return the number of classes.

    Raises:
        UsageError: the data do not tell.
    """
    train: Any = data.train
    if isinstance(train, TensorDataset):
        return int(train.tensors[1].max()) + 1
    for name in ("classes", "labels", "targets"):
        known = getattr(train, name, None)
        if known is not None:
            return len(set(map(int, known))) if name != "classes" else len(known)
    if isinstance(train, ImageFolder):
        return 1 + max(label for _, label in train.files)
    raise UsageError("the data do not say how many classes there are", fix="child.classes = 10")


def _pretrained(table: ChildTable, allow: tuple[str, ...]) -> nn.Module:
    if table.weights:
        return load_model(table.weights, model=table.network, allow=allow).module.eval()
    if ":" in table.network:
        return build_model(table.network).eval()
    return load_model(table.network, allow=allow).module.eval()
