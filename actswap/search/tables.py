"""The tables of a search file as plain frozen data; fields are the keys, types what a value must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from actswap.recipe.tables import DataTable
from actswap.search.networks import NETWORKS
from actswap.search.space import Space
from actswap.search.study import SearchConfig
from actswap.train.config import TuneConfig

SCHEMA = 1
PLACED_BY_SEARCH = ("out", "resume", "seed")  # keys of `tune`


@dataclass(frozen=True)
class ChildTable:
    """The network that is trained with every function.

    Attributes:
        network: `proxy` or `resnet20`, which are trained from scratch; or a pretrained network: `torchvision:NAME`,
            `timm:NAME`, `package.module:factory`, or a file that holds a whole model.
        weights: file with the weights, if `network` only builds a pretrained network.
        classes: number of classes of a network from scratch; 0 takes it from the data.
        only: selectors of the sites of a pretrained network that get the function; empty for all that are no gates.
        skip: selectors of sites to leave.
        rungs: number of stages, after each of which halving decides. Stage k of n ends after epochs / h^(n - k) epochs
            of `tune.epochs`; h is `search.halving`, or 3 without halving.
    """

    network: str = "proxy"
    weights: str = ""
    classes: int = 0
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    rungs: int = 1

    @property
    def from_scratch(self) -> bool:
        """Whether the network starts without trained weights."""
        return self.network in NETWORKS

    def problems(self) -> list[str]:
        """Return one sentence for every value that cannot be used.

        >>> ChildTable("resnet20", only=("layer1.*",), rungs=0).problems()
        ['child.rungs: must be 1 to 8, is 0', 'child.only: resnet20 is built with the function at every site']
        """
        found = [f"child.rungs: must be 1 to 8, is {self.rungs}"] * (not 1 <= self.rungs <= 8)
        if self.classes < 0:
            found.append(f"child.classes: must not be negative, is {self.classes}")
        if self.from_scratch:
            for name in ("only", "skip"):
                if getattr(self, name):
                    found.append(f"child.{name}: {self.network} is built with the function at every site")
            if self.weights:
                found.append(f"child.weights: {self.network} is trained from scratch")
        return found


@dataclass(frozen=True)
class SearchFile:
    """Everything that a search needs.

    Attributes:
        schema: version of this format.
        title: one line.
        space: the functions that are searched.
        search: how they are searched.
        child: the network that is trained with each.
        tune: how it is trained. Seeds and folders are the search's own.
        data: what it is trained on; the score is that of the validation part.
    """

    schema: int
    title: str = ""
    space: Space = field(default_factory=Space)
    search: SearchConfig = field(default_factory=SearchConfig)
    child: ChildTable = field(default_factory=ChildTable)
    tune: TuneConfig = field(default_factory=TuneConfig)
    data: DataTable = field(default_factory=DataTable)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, from which `read_document` makes the same search."""
        data = _without_none(asdict(self))
        for key in PLACED_BY_SEARCH:
            data["tune"].pop(key, None)
        return data


def _without_none(data: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None, as TOML does."""
    return {
        key: _without_none(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for key, value in data.items()
        if value is not None
    }
