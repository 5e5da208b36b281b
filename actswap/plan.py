"""The plan: what each site is replaced by, as plain immutable data.

A plan is made once, from one model and example inputs, and can be applied to any other copy of that model without
running it. A swap names a child module. An island holds the arguments that its forward is traced with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from actswap.capture.arguments import NUMBER, TENSOR, Arguments
from actswap.capture.exchange import Rewrite
from actswap.errors import UsageError, first_line
from actswap.fit.histogram import Histogram
from actswap.sites import Site, Source, Start

SCHEMA = 1


def tool_version() -> str:
    """Return the version of actswap that is written into bundles and ONNX files; it is defined in pyproject.toml."""
    try:
        return version("actswap")
    except PackageNotFoundError:
        return "0"


@dataclass(frozen=True)
class Choice:
    """What one site is replaced by.

    Attributes:
        site: the site.
        target: name of the target activation.
        options: options of the target, e.g. `{"space": "layer"}`.
        start: how the target begins.
        path: full name of the target module in the model.
        histogram: the site's inputs during calibration, None if nothing was calibrated.
        seed: seeds, together with `path`, the random numbers that the target starts with.
    """

    site: Site
    target: str
    start: Start
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    histogram: Histogram | None = None
    seed: int = 0


@dataclass(frozen=True)
class Island:
    """One module whose forward is traced and rewritten.

    Attributes:
        owner: fully qualified name of the module ("" is the model).
        calls: the ways it is called.
        sources: kinds of all activation calls in its forward, in order: checked against the trace.
        children: the called child at each of these positions, "" for a function or formula.
        inline: children that are traced through, because they are part of a formula.
        rewrites: expressions to exchange in its source; if there are none, its forward is traced or its graphs edited.
    """

    owner: str
    calls: tuple[Arguments, ...]
    sources: tuple[str, ...]
    children: tuple[str, ...]
    inline: tuple[str, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything that `apply_plan` needs.

    Attributes:
        target: the target asked for.
        choices: the sites that are replaced.
        left: (site, reason) of those that are not.
        islands: the modules to be traced.
        model: class name of the model it was made for.
        keys: digest of the model's parameter names and shapes, checked before the plan is applied.
        before: the plan of an earlier conversion of the same model, applied first.
    """

    target: str
    choices: tuple[Choice, ...]
    left: tuple[tuple[Site, str], ...]
    islands: tuple[Island, ...]
    model: str
    keys: str
    before: Plan | None = None
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "schema": self.schema,
            "target": self.target,
            "model": self.model,
            "keys": self.keys,
            "before": None if self.before is None else self.before.to_dict(),
            "choices": [
                {
                    "site": c.site.to_dict(),
                    "target": c.target,
                    "options": dict(c.options),
                    "start": {**vars(c.start), "params": dict(c.start.params)},
                    "path": c.path,
                    "histogram": None if c.histogram is None else c.histogram.to_dict(),
                    "seed": c.seed,
                }
                for c in self.choices
            ],
            "left": [{"site": s.to_dict(), "reason": r} for s, r in self.left],
            "islands": [
                {
                    **vars(i),
                    "calls": [_arguments_to_dict(a, i.owner) for a in i.calls],
                    "rewrites": [dict(vars(r)) for r in i.rewrites],
                }
                for i in self.islands
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Read a plan from what `to_dict` returned.

        Raises:
            UsageError: the data is not a plan of this schema.
        """
        if not isinstance(data, Mapping):
            raise UsageError(
                f"this is no plan of actswap but a {type(data).__name__}",
                fix="make the plan again: actswap convert MODEL --to TARGET",
            )
        if data.get("schema") != SCHEMA:
            raise UsageError(
                f"this plan has schema {data.get('schema')!r}, this actswap reads {SCHEMA}",
                fix="make the plan again with this version: actswap convert MODEL --to TARGET",
            )
        try:
            return cls(
                target=str(data["target"]),
                model=str(data["model"]),
                keys=str(data["keys"]),
                before=None if data["before"] is None else cls.from_dict(data["before"]),
                choices=tuple(
                    Choice(
                        _site(c["site"]),
                        str(c["target"]),
                        Start(**{**c["start"], "params": _numbers(c["start"]["params"])}),
                        str(c["path"]),
                        dict(c["options"]),
                        None if c["histogram"] is None else Histogram.from_dict(c["histogram"]),
                        int(c.get("seed", 0)),  # plans of earlier versions have none
                    )
                    for c in data["choices"]
                ),
                left=tuple((_site(entry["site"]), str(entry["reason"])) for entry in data["left"]),
                islands=tuple(
                    Island(
                        str(i["owner"]),
                        tuple(_arguments_from_dict(a) for a in i["calls"]),
                        tuple(i["sources"]),
                        tuple(i["children"]),
                        tuple(i["inline"]),
                        tuple(_rewrite(r) for r in i["rewrites"]),
                    )
                    for i in data["islands"]
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                "this is no plan of actswap",
                why=first_line(error),
                fix="make the plan again: actswap convert MODEL --to TARGET",
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        """Return the plan itself: it is immutable, so copies of a model share it."""
        return self

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Pickle the plan as its JSON text."""
        return plan_from_text, (json.dumps(self.to_dict()),)


def plan_from_text(text: str) -> Plan:
    """Read a plan from JSON text; pickles of converted models call this by name.

    Raises:
        UsageError: the text is not a plan of this schema.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UsageError("this is no plan of actswap", why=str(error)) from error
    return Plan.from_dict(data)


def _rewrite(data: Mapping[str, Any]) -> Rewrite:
    return Rewrite(
        str(data["function"]),
        str(data["digest"]),
        _place(data["place"]),
        tuple(int(o) for o in data["ordinals"]),
        None if data.get("argument") is None else _place(data["argument"]),
        tuple(_place(p) for p in data.get("drop", ())),
        tuple(_place(p) for p in data.get("beside", ())),
        bool(data.get("inplace", False)),
        bool(data.get("reference", False)),
    )


def _place(data: Any) -> tuple[int, int, int, int]:
    line, end_line, column, end_column = (int(v) for v in data)
    return line, end_line, column, end_column


def keys_of(model: nn.Module) -> str:
    """Return a digest of the names and shapes of a model's parameters and buffers."""
    import hashlib

    rows = sorted(f"{k}:{tuple(v.shape)}" for k, v in model.state_dict(keep_vars=True).items() if hasattr(v, "shape"))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def _site(data: Mapping[str, Any]) -> Site:
    source = dict(data["source"])
    kind, text = str(source.pop("kind")), str(source.pop("formula", ""))
    trained = tuple((str(constant), str(name)) for constant, name in source.pop("trained", ()))
    found = Source(kind, Source.of(kind, **_numbers(source)).params, text, trained)
    return Site(**{**data, "source": found, "shape": tuple(data["shape"])})


def _numbers(params: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(float(x) for x in v) if isinstance(v, (list, tuple)) else float(v) for k, v in params.items()}


_NAMED = {str(v): v for v in vars(torch).values() if isinstance(v, (torch.dtype, torch.memory_format, torch.layout))}


def _arguments_to_dict(arguments: Arguments, owner: str) -> dict[str, Any]:
    leaves: list[Any] = []
    for leaf in arguments.leaves:
        if leaf in (TENSOR, NUMBER):
            leaves.append({"free": leaf.name})
        elif leaf is None or isinstance(leaf, (bool, int, float, str)):
            leaves.append({"value": leaf})
        elif str(leaf) in _NAMED:
            leaves.append({"torch": str(leaf)})
        else:
            raise UsageError(
                "this conversion cannot be written to a file",
                where=owner,
                why=f"the module was called with a {type(leaf).__name__}, which JSON cannot hold",
                fix="pass example inputs without it (for a transformer: use_cache=False), or leave the sites out: "
                f"--skip '{owner}.*'",
            )
    return {"spec": pytree.treespec_dumps(arguments.spec), "leaves": leaves}


def _arguments_from_dict(data: Mapping[str, Any]) -> Arguments:
    leaves: list[Any] = []
    for leaf in data["leaves"]:
        ((key, value),) = leaf.items()
        leaves.append(
            {
                "free": lambda v: {"tensor": TENSOR, "number": NUMBER}[v],
                "value": lambda v: v,
                "torch": _NAMED.__getitem__,
            }[key](value)
        )
    spec = pytree.treespec_loads(json.dumps(json.loads(str(data["spec"]))))
    return Arguments(spec, tuple(leaves))
