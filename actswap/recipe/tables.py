"""The tables of a recipe file as plain frozen data; fields are the keys, types what a value must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actswap.train.config import TuneConfig

SCHEMA = 1


@dataclass(frozen=True)
class ModelTable:
    """Where the network comes from.

    Attributes:
        source: `torchvision:NAME`, `timm:NAME`, `package.module:factory`, or a file that holds a whole model.
        weights: file with the weights, if `source` only builds the network.
        input: shape of one example input, the batch first.
    """

    source: str
    input: tuple[int, ...]
    weights: str = ""


@dataclass(frozen=True)
class ConvertTable:
    """What becomes of the activations; see `actswap.convert`.

    Attributes:
        target: the activation, with its options in brackets or below; empty if `targets` is given.
        targets: activations by selector, instead; the first selector that matches a site holds.
        only: selectors of the sites to replace; empty for all that are no gates.
        skip: selectors of sites to leave.
        start: `auto`, `exact`, `limit`, `fit`, `morph` or `none`.
        tolerance: largest relative error of the output.
        options: options of the target.
        seed: of the random starts that some targets have.
    """

    target: str = ""
    targets: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    start: str = "auto"
    tolerance: float = 1e-3
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def asked(self) -> str | Mapping[str, str]:
        """What `actswap.convert` takes as its target."""
        return self.targets or self.target


@dataclass(frozen=True)
class DataTable:
    """The images.

    Attributes:
        source: `package.module:function` or an image folder with `train/CLASS/*` and `val/CLASS/*`; empty if the user
            has to name it: `actswap run RECIPE --data FOLDER`.
        size: side of the square images read from a folder; 0 takes the last number of `model.input`.
    """

    source: str = ""
    size: int = 0


@dataclass(frozen=True)
class CalibrateTable:
    """How many training images the starts are fitted on.

    Attributes:
        batches: number of batches.
        batch: images in each.
    """

    batches: int = 4
    batch: int = 32


@dataclass(frozen=True)
class ExportTable:
    """What is written beside the bundle.

    Attributes:
        onnx: write `model.onnx`, checked against the network.
        dynamic_batch: leave its batch size open.
    """

    onnx: bool = True
    dynamic_batch: bool = True


@dataclass(frozen=True)
class Measured:
    """A result somebody got with this recipe; documentation, nothing is computed from it.

    Attributes:
        date: ISO date.
        what: data, budget and machine.
        before: score of the original network.
        after: score at the end.
        note: anything else.
    """

    date: str
    what: str
    before: float | None = None
    after: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """Everything from a model to its report.

    Attributes:
        schema: version of this format.
        title: one line.
        paper: where placement and hyper-parameters come from.
        notes: what to know before running it.
        model: the network.
        convert: the activations.
        data: the images.
        calibrate: data for the starts.
        tune: fine-tuning; None converts only.
        export: files.
        measured: results.
    """

    schema: int
    title: str
    model: ModelTable
    convert: ConvertTable
    paper: str = ""
    notes: str = ""
    data: DataTable = field(default_factory=DataTable)
    calibrate: CalibrateTable = field(default_factory=CalibrateTable)
    tune: TuneConfig | None = None
    export: ExportTable = field(default_factory=ExportTable)
    measured: tuple[Measured, ...] = ()
