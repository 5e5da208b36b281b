"""Fit the names of saved weights to the names of a network: the prefixes that wrappers add, by rule.

A wrapper (torch.compile, DistributedDataParallel, AveragedModel, a LightningModule, a class of one's own) saves the
weights of the network inside it under a prefix. The rule: names that the wrappers of torch put into the middle
(`_orig_mod`) are dropped; then a prefix is taken off if every name of the network stands in the file under it. So
nothing is guessed from a list of words, and nothing is ever filled in part.
"""

from __future__ import annotations

import functools
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from actswap.activations import TRAINABLE
from actswap.errors import LoadError

# Names of the modules that wrappers of torch and Lightning put around another; no network calls its layers so.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_fpw_module")
_SHOWN = 4


@dataclass(frozen=True)
class Fitted:
    """Weights under the names of a network.

    Attributes:
        state: the weights that belong to the network, and those that the network does not know.
        notes: what was done to the names, in words; empty if nothing was.
        beside: names in the file that lie outside the prefix, so that they belong to something else.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def fit_names(state: Mapping[str, Tensor], own: Mapping[str, Any], prefix: str | None, name: str) -> Fitted:
    """Rename the weights of a file after the network that they belong to.

    Args:
        state: the weights of the file.
        own: the parameters and buffers of the network.
        prefix: the prefix that the user gave, None to find it.
        name: the file, for messages.

    Returns:
        The weights. If no prefix fits every name, the one that fits most is taken off, so that a message about what is
        missing is short.

    Raises:
        LoadError: the file holds the network under several prefixes, or nothing under the one that was given.
    """
    plain, dropped = _without_wrappers(state, own)
    notes = (f"names without {', '.join(dropped)}",) if dropped else ()
    if prefix is not None:
        given = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
        return _under(plain, given, notes, name, prefixes_of(plain))
    counts = _counts(plain, own)
    best = max(counts.values(), default=0)
    full = [p for p, n in counts.items() if n == best and n == len(own)]
    if "" in full:
        return Fitted(dict(plain), notes)
    if len(full) > 1 and not _same_values(plain, own, full):
        listed = ", ".join(f"{p!r}" for p in full)
        raise LoadError(
            f"{name} holds the network several times",
            why=f"every name of it stands under {listed}",
            fix=f"say which one is meant: --prefix {full[0]} (in Python: prefix={full[0]!r})",
            add=f"--prefix {full[0]}",
        )
    if full:
        return _under(plain, full[0], notes, name, ())
    inner = _common_prefix(own)
    if inner and counts.get("", 0) < _counts({f"{inner}{k}": v for k, v in plain.items()}, own).get("", 0) == len(own):
        said = (*notes, f"prefix {inner!r} of the network added to every name")
        return Fitted({f"{inner}{k}": v for k, v in plain.items()}, said)
    likely = max(counts, key=lambda p: (counts[p], p == ""), default="")
    if not likely:
        return Fitted(dict(plain), notes)
    return _under(plain, likely, notes, name, ()) if 2 * counts[likely] > len(own) else Fitted(dict(plain), notes)


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    prefix: str | None,
    name: str,
    spec: str,
    drop: Sequence[str] = (),
) -> tuple[nn.Module, tuple[str, ...]]:
    """Write the weights of a file into a network: all of them, or none.

    Args:
        module: the network; tied parameters may be saved once.
        state: the weights.
        prefix: the prefix that the user gave, None to find it.
        name: the file, for messages.
        spec: what built the network, for messages.
        drop: names, or modules that they lie in, that the user says are no part of the network.

    Returns:
        The network in eval mode, and what was done to the names.

    Raises:
        LoadError: a weight is missing, of another shape, or unknown to the network.
    """
    own = module.state_dict()
    fitted = fit_names(state, _needed(own, state), prefix, name)
    fitted = without(fitted, drop, name)
    found = misfit(own, fitted.state)
    if found:
        refuse_converted(found.unexpected, name)
        raise not_fitting(name, spec, found, own)
    module.load_state_dict(fitted.state, strict=False)
    return module.eval(), fitted.notes


def converted_sites(names: Collection[str]) -> list[str]:
    """Return the modules among whose parameters are those of a trainable activation, as a conversion puts it there.

    >>> converted_sites(["0.weight", "1.log_beta", "1.p1", "1.p2", "1.beta_sign"])
    ['1']
    """
    below: dict[str, set[str]] = {}
    for name in names:
        module, _, last = name.rpartition(".")
        below.setdefault(module, set()).add(last)
    return [module for module, ends in below.items() if any(own <= ends for own in _own_names())]


@functools.cache
def _own_names() -> tuple[frozenset[str], ...]:
    """The names of the tensors of each trainable activation, without those of layers inside it."""
    states = (spec.build(4, 1).state_dict() for spec in TRAINABLE)
    found = {frozenset(name for name in state if "." not in name) for state in states}
    return tuple(names for names in found if len(names) > 1)


def refuse_converted(names: Collection[str], name: str) -> None:
    """Raise if weights that fit no plain network are those of a converted one."""
    sites = converted_sites(names)
    if sites:
        raise LoadError(
            f"{name} holds the weights of a converted model",
            why=f"it has the parameters of {len(sites)} trained activations: {few(sites)}",
            fix=f"put them into the bundle that the training began with: actswap rebuild {shlex.quote(name)} "
            "--bundle BUNDLE -o OUT (in Python: actswap.rebuild(checkpoint, bundle, base_model))",
        )


def without(fitted: Fitted, drop: Sequence[str], name: str) -> Fitted:
    """Leave out what the user says is no part of the network.

    Raises:
        LoadError: there is nothing of that name.
    """
    gone = {part: [n for n in fitted.state if n == part or n.startswith(f"{part}.")] for part in drop}
    for part, names in gone.items():
        if not names:
            raise LoadError(
                f"{name} holds nothing under {part!r}", why=f"its names are {few(fitted.state)}", fix="leave out --drop"
            )
    names = [n for found in gone.values() for n in found]
    if not names:
        return fitted
    kept = {n: t for n, t in fitted.state.items() if n not in names}
    return Fitted(kept, (*fitted.notes, f"left out, as asked for: {few(names)}"), fitted.beside)


def parts_to_drop(unexpected: Collection[str], own: Collection[str]) -> list[str]:
    """Return the shortest names under which a file holds what a network does not have: whole modules, or tensors."""
    inside = {name[:i] for name in own for i, c in enumerate(name) if c == "."}
    found: dict[str, None] = {}
    for name in unexpected:
        parts = name.split(".")
        ends = (".".join(parts[:k]) for k in range(1, len(parts) + 1))
        found[next((p for p in ends if p not in inside), name)] = None
    return list(found)


@dataclass(frozen=True)
class Misfit:
    """Why weights do not fill a network: names that are missing, names that it does not know, and other shapes."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    @property
    def said(self) -> str:
        """The three lists in words."""
        rows = (("missing:", self.missing), ("not in the model:", self.unexpected), ("shape:", self.shapes))
        return "; ".join(f"{label} {few(names)}" for label, names in rows if names)


def misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Misfit:
    """Compare the names and shapes of weights with those of a network.

    A tensor that shares its memory with one that is given needs no entry of its own, and counters of batches none.
    """
    given = {own[name].data_ptr() for name in own if name in state and own[name].numel()}  # tied weights are saved once
    missing = [
        name
        for name in own
        if name not in state and own[name].data_ptr() not in given and not name.endswith("num_batches_tracked")
    ]
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    return Misfit(tuple(missing), tuple(name for name in state if name not in own), tuple(shapes))


def few(names: Collection[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def prefixes_of(state: Collection[str]) -> tuple[str, ...]:
    """Return the first parts of the names, those of most tensors first."""
    return tuple(p for p, _ in Counter(f"{k.partition('.')[0]}." for k in state if "." in k).most_common())


def not_fitting(name: str, spec: str, found: Misfit, own: Collection[str]) -> LoadError:
    """Return the error for weights that do not fill a network. If only something is too much, it can be left out."""
    what = f"the weights of {name} do not fit {spec}"
    if not found.missing and not found.shapes:
        parts = parts_to_drop(found.unexpected, own)
        options = " ".join(f"--drop {shlex.quote(part)}" for part in parts)
        fix = f"{options}, if the network is meant to go without (in Python: drop={parts[:4]})"
        return LoadError(what, why=found.said, fix=fix, add=options)
    fix = f"name what was saved, with its options: --model '{spec.partition('?')[0]}?num_classes=10'"
    others = [p for p in prefixes_of(found.unexpected) if not any(n.startswith(p) for n in own)]
    return LoadError(what, why=found.said, fix=f"{fix}; or --prefix {others[0]}, if it stands there" if others else fix)


def _needed(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that a file must hold: no counters of batches, and tied ones under one of their names."""
    groups: dict[Any, list[str]] = {}
    for name, t in own.items():
        if not name.endswith("num_batches_tracked"):
            groups.setdefault((t.data_ptr(), t.shape) if t.numel() else name, []).append(name)

    def saved(name: str) -> bool:
        return any(k == name or k.endswith(f".{name}") for k in state)

    kept = (next(filter(saved, names), names[0]) if len(names) > 1 else names[0] for names in groups.values())
    return {name: own[name] for name in kept}


def _without_wrappers(state: Mapping[str, Tensor], own: Collection[str]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    dropped = [
        w for w in _WRAPPERS if any(w in k.split(".") for k in state) and not any(w in k.split(".") for k in own)
    ]
    if not dropped:
        return dict(state), ()
    return {".".join(p for p in k.split(".") if p not in dropped): v for k, v in state.items()}, tuple(dropped)


def _counts(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, int]:
    """Return for each prefix how many names of the network stand under it, with their shape."""
    counts: Counter[str] = Counter()
    by_shape: dict[tuple[str, Any], list[str]] = {}
    for name, t in own.items():
        by_shape.setdefault((name.rpartition(".")[2], t.shape), []).append(name)
    for key, t in state.items():
        for name in by_shape.get((key.rpartition(".")[2], t.shape), ()):
            if key == name or key.endswith(f".{name}"):
                counts[key[: len(key) - len(name)]] += 1
    return dict(counts)


def _under(
    state: Mapping[str, Tensor], prefix: str, notes: tuple[str, ...], name: str, known: Collection[str]
) -> Fitted:
    inside = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    if not inside:
        raise LoadError(
            f"{name} holds no weights under the prefix {prefix!r}",
            why=f"its names begin with {few(known)}" if known else f"its names are {few(state)}",
            fix=f"--prefix {next(iter(known))}" if known else "leave out --prefix",
        )
    if not prefix:
        return Fitted(inside, notes)
    beside = tuple(k for k in state if not k.startswith(prefix))
    said = (*notes, f"prefix {prefix!r} taken off")
    if beside:
        said += (f"not under it, so of something else: {few(beside)}",)
    return Fitted(inside, said, beside)


def _common_prefix(own: Collection[str]) -> str:
    """Return the first part of the names of a network, if all have the same: the network is itself a wrapper."""
    parts = {name.partition(".")[0] for name in own}
    return f"{parts.pop()}." if len(parts) == 1 and all("." in name for name in own) else ""


def _same_values(state: Mapping[str, Tensor], own: Collection[str], prefixes: Collection[str]) -> bool:
    """True if the network under several prefixes is one and the same, saved twice."""
    first, *rest = prefixes
    return all(state[f"{first}{n}"].equal(state[f"{p}{n}"]) for p in rest for n in own)
