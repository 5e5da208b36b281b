"""Put the weights that a toolkit trained back into a bundle.

Lightning, transformers' Trainer, ultralytics and plain loops save a converted model as they save any other: a
checkpoint, a `best.pt`, a folder of save_pretrained. Such a file holds the numbers and not the plan. The bundle that
the training began with holds the plan.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from actswap.errors import LoadError
from actswap.io import bundle as bundles
from actswap.io.loading import load_model, load_weights
from actswap.io.weight_names import few, fill
from actswap.record import plan_of


@dataclass(frozen=True)
class Rebuilt:
    """A converted model with trained weights.

    Attributes:
        model: the model, with its plan, so that it can be saved as a bundle.
        activations: the replaced sites.
        changed: those of them whose parameters differ from the bundle's.
        others: how many other tensors differ.
        notes: which weights of the checkpoint were taken, and what was done to their names.
    """

    model: nn.Module
    activations: tuple[str, ...]
    changed: tuple[str, ...]
    others: int
    notes: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """What should make the user look again, "" if nothing: the training left the activations as they were."""
        if self.changed or not self.others or not self.activations:
            return ""
        return (
            f"none of the {len(self.activations)} activations was trained, although {self.others} other tensors "
            "changed: their parameters were frozen (LoRA freezes all that is not its own), or no optimizer had them"
        )


def rebuild(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    base_model: nn.Module | None = None,
    *,
    key: str | None = None,
    prefix: str | None = None,
    drop: Sequence[str] = (),
    base: str | os.PathLike[str] | None = None,
    model: str | None = None,
    allow: Sequence[str] = (),
    trust_pickle: bool = False,
) -> Rebuilt:
    """Load a bundle with the weights of a checkpoint that was trained from it.

    Args:
        checkpoint: what the toolkit saved: a checkpoint, a `best.pt`, weights, or a model folder. Of a whole pickled
            network the weights are taken, so its classes need not be known.
        bundle: the bundle that the training began with.
        base_model: a model of the converted architecture; by default it is found as `actswap export` finds it.
        key: which of several weights of the checkpoint.
        prefix: what stands before the names of the network in it; by default it is found.
        drop: names in the checkpoint, or the modules that they lie in, that are no part of the network.
        base: file of the model that the bundle was made from, if its own note does not find it.
        model: how to build that model, if its file holds weights only.
        allow: packages whose classes that file may use.
        trust_pickle: load pickles without any check.

    Returns:
        The converted model, and what the training changed.

    Raises:
        LoadError: the checkpoint lacks a weight of the converted model, or holds one that it does not know.

    >>> import tempfile, torch, actswap
    >>> build = lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    >>> converted = actswap.convert(build(), "acon_c", torch.randn(8, 4)).model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bundle = actswap.save(converted, folder + "/bundle")
    ...     torch.nn.init.constant_(converted[1].p1, 2.0) is None
    ...     torch.save({"state_dict": converted.state_dict()}, folder + "/last.ckpt")
    ...     rebuilt = actswap.rebuild(folder + "/last.ckpt", bundle, build())
    False
    >>> rebuilt.changed, rebuilt.others
    (('1',), 0)
    """
    if base_model is None:
        loaded = load_model(bundle, model=model, allow=allow, trust_pickle=trust_pickle, base=base)
        if loaded.kind != "bundle":
            raise LoadError(f"{bundle} is not a bundle", fix="give the folder that actswap convert wrote: --bundle")
        converted = loaded.module
    else:
        converted = bundles.load(bundle, base_model)
    plan = plan_of(converted)
    assert plan is not None
    paths = {choice.path: choice.site.name for choice in plan.choices}
    state, notes = load_weights(checkpoint, key=key, trust_pickle=trust_pickle)
    _refuse_unconverted(state, converted, tuple(paths), str(checkpoint))
    before = {name: t.clone() for name, t in converted.state_dict().items()}
    name, spec = str(checkpoint), f"the bundle {Path(bundle)}"
    _, renamed = fill(converted, state, prefix, name, spec, drop)
    after = converted.state_dict()
    changed = [n for n, t in after.items() if not torch.equal(t, before[n]) and not n.endswith("num_batches_tracked")]
    trained = {p for p in paths for n in changed if n.startswith(f"{p}.")}
    others = sum(not any(n.startswith(f"{p}.") for p in paths) for n in changed)
    sites = (tuple(paths.values()), tuple(site for path, site in paths.items() if path in trained))
    return Rebuilt(converted.eval(), *sites, others, (*notes, *renamed))


def _refuse_unconverted(state: Collection[str], model: nn.Module, paths: Collection[str], name: str) -> None:
    """Raise if no activation of the bundle has left a trace in the checkpoint: another network was trained."""
    own = [n for n in model.state_dict() if any(n.startswith(f"{p}.") for p in paths)]
    if own and not any(k == n or k.endswith(f".{n}") for n in own for k in state):
        raise LoadError(
            f"{name} holds no parameter of the {len(paths)} activations of the bundle",
            why=f"for example {few(own[:2])}; the trainer built the network anew (YOLO.train() does so from its yaml), "
            "and trained the original activations",
            fix="train the converted model itself: docs/files.md shows how for YOLO.train() and LoRA",
        )
